r"""Representation alignment: pulls hidden features of the network towards the features of a pretrained encoder.

$$\mathcal{L} = \mathcal{L}_{\text{matching}} - \lambda\; \frac{1}{N} \sum_{i=1}^N \cos\!\big(y_i, h_i\big)$$

with the encoder's features $y$ of the clean data and the projected features $h$ of $x_t$, token by token (Yu et al.
2025, eq. 8). Tokens that are masked do not count in the sum or in $N$.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._base.arguments import Checked
from .._base.checks import check_count, check_instance, check_not_negative, in_single
from .._base.typing import Array, Condition, Event, KeyArray, MaskOf, Scalar
from ..model.network import AbstractFeatureNetwork
from ..model.trained import Model
from ..times import AbstractTimes
from .matching import AbstractLoss, Matching, drop_condition


class WithFeatures(eqx.Module, metaclass=Checked):
    """A condition together with an encoder's features of the same data, which are not passed to the network."""

    condition: Condition
    features: Array
    """`(..., channels)`, one vector for each token; in `fit`, with a leading batch axis."""


class RepresentationAlignment(AbstractLoss):
    """A matching loss plus the alignment of one block's features, for a network that returns hidden features.

    Pass `fit(condition=WithFeatures(condition, features))`. A projector trained jointly is part of the network: see
    `nn.Projected`. After training, sample the model with plain conditions.

    Raises `ValueError` if the condition has no features, the network returns none, or their shapes differ.

    **Reference:** [@yu2025representation].
    """

    matching: Matching
    weight: float
    block: int
    mask: MaskOf | None
    times: AbstractTimes

    def __init__(
        self,
        matching: Matching | None = None,
        *,
        weight: float = 0.5,
        block: int = -1,
        mask: MaskOf | None = None,
    ) -> None:
        r"""**Arguments:**

        - `matching`: the loss of the output, whose times and condition dropout are used. Default: `Matching()`.
        - `weight`: the weight $\lambda$ of the alignment.
        - `block`: the index of the network's features to align. Default: the last, which is the only one of
            `nn.Projected`.
        - `mask`: `mask(condition)`, nonzero where a token is real, of the shape of the features without the channels.
            Default: the mask of the reduction of `matching`, whose nodes must be the tokens.
        """
        self.matching = Matching() if matching is None else matching
        check_instance("matching", self.matching, Matching)
        self.weight, self.block, self.times = weight, block, self.matching.times
        self.mask = self.matching.reduction.mask if mask is None else mask

    def __check_init__(self) -> None:
        check_not_negative("weight", self.weight)
        check_count("block", self.block, None)

    def __call__(
        self, model: Model, t: Scalar, x0: Event, x1: Event, condition: Condition = None, *, key: KeyArray | None = None
    ) -> Array:
        matching, alignment = self.parts(model, t, x0, x1, condition, key=key)
        return matching + self.weight * alignment

    def parts(
        self, model: Model, t: Scalar, x0: Event, x1: Event, condition: Condition = None, *, key: KeyArray | None = None
    ) -> tuple[Array, Array]:
        """The matching loss and minus the mean cosine similarity, two scalars."""
        if not isinstance(condition, WithFeatures):
            raise ValueError(
                "RepresentationAlignment needs the features; pass condition=WithFeatures(condition, features)."
            )
        kept, key = drop_condition(self.matching.condition_dropout, condition.condition, key)
        x = model.interpolant.interpolate(t, *in_single((x0, x1))).astype(x1.dtype)
        output, hidden = _output_and_hidden(model, t, x, kept, key)
        features, wanted = hidden[self.block], jax.lax.stop_gradient(condition.features)
        if features.shape != wanted.shape:
            raise ValueError(
                f"The features of the network have shape {features.shape} but those of the data {wanted.shape}; "
                "wrap the network in nn.Projected with a projector to the width of the latter."
            )
        loss = self.matching.measure(model, output, t, x0, x1, condition.condition)
        features = in_single(features)
        tokens = features.shape[:-1]
        mask = jnp.ones(tokens, bool) if self.mask is None else jnp.asarray(self.mask(condition.condition)).astype(bool)
        if mask.shape != tokens:
            raise ValueError(
                f"The mask has shape {mask.shape} but the features have tokens of shape {tokens}; pass "
                "RepresentationAlignment(mask=...) with the mask of the tokens."
            )
        # Masked on both sides, so that NaN at padding reaches no gradient.
        cosine = _cosine(*(jnp.where(mask[..., None], v, 0) for v in (features, wanted.astype(features.dtype))))
        return loss, -(jnp.sum(cosine) / jnp.maximum(jnp.sum(mask), 1).astype(cosine.dtype)).astype(loss.dtype)


def _output_and_hidden(
    model: Model, t: Scalar, x: Event, condition: Condition, key: KeyArray | None
) -> tuple[Event, tuple[Array, ...]]:
    network = model.network
    if not isinstance(network, AbstractFeatureNetwork):
        raise ValueError(
            f"{type(network).__name__} returns no hidden features; use nn.DiT, or subclass AbstractFeatureNetwork."
        )
    recorded: list[Any] = []

    def record(t: Scalar, x: Event, condition: Condition) -> Event:
        output, hidden = network.hidden(t, x, condition, key=key)
        recorded.append(hidden)
        return output

    # The preconditioner calls the network exactly once, so one entry is recorded.
    return model.output(t, x, condition, network=record), recorded[0]


def _cosine(a: Array, b: Array) -> Array:
    """The cosine similarity along the last axis; zero where either vector is zero."""

    def unit(v: Array) -> Array:
        square = jnp.sum(v**2, axis=-1, keepdims=True)
        # Avoid a division by zero, in the gradient too.
        return jnp.where(square > 0, v * jax.lax.rsqrt(jnp.where(square > 0, square, 1)), 0)

    return jnp.sum(unit(a) * unit(b), axis=-1)
