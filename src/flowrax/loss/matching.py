r"""Conditional matching: regress the network on a target computed from one draw of noise and data.

$$\mathcal{L} = \mathbb{E}_{t, x_0, x_1}\; \omega(t)\, \frac1D \lVert F_\theta(t, x_t) - T(x_1, x_0; t) \rVert^2, \qquad
x_t = \alpha x_1 + \sigma x_0.$$

Its minimiser is $\mathbb{E}[T | x_t]$ for every target $T$ (Lipman et al. 2023; for the score, Vincent 2011).
"""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._base import random
from .._base.arguments import Checked
from .._base.arrays import as_real
from .._base.checks import check_fraction, in_single
from .._base.typing import Array, Bool, Condition, Event, KeyArray, PyTree, Scalar
from ..model.trained import Model
from ..times import AbstractTimes, Stratified
from .reductions import AbstractReduction, Mean
from .weights import AbstractWeight, UniformWeight


class AbstractLoss(eqx.Module, metaclass=Checked):
    """A loss for one pair of noise and data at one time."""

    times: eqx.AbstractVar[AbstractTimes]
    """The distribution from which the times of a batch are drawn."""

    @abc.abstractmethod
    def __call__(
        self, model: Any, t: Scalar, x0: PyTree, x1: PyTree, condition: Condition = None, *, key: KeyArray | None = None
    ) -> Array:
        """The loss of one pair, a scalar, which `fit` averages over the batch.

        **Arguments:**

        - `model`: the model in training.
        - `t`: the time, a scalar, or `(k,)` if `times` draws `k` times per sample.
        - `x0`, `x1`: one event of noise and one of data.
        - `condition`: the condition of the event of data, or None.
        - `key`: the key of random parts such as dropout. With `key=None` there is no dropout of any kind, as in
            validation.
        """


class ConditionDropout(eqx.Module, metaclass=Checked):
    """Replaces a condition by a null condition with a given probability, so that one network learns both the
    conditional and the unconditional model that classifier-free guidance combines.

    `null` has the structure of a condition. Default: zeros. Zero is a valid class, so a condition with integer leaves
    needs a `null` with a label that stands for no class; otherwise a `ValueError` is raised. To keep a part of the
    condition, such as a mask, pass a function of the condition, such as
    `null=lambda condition: condition | {"label": jnp.zeros_like(condition["label"])}`.
    """

    probability: float
    null: Condition | Callable[[Condition], Condition] = None

    def __check_init__(self) -> None:
        check_fraction("probability", self.probability)

    def __call__(self, condition: Condition, key: KeyArray) -> Condition:
        """The null condition with probability `probability`, otherwise `condition`."""
        return self.dropped(condition, random.bernoulli(key, self.probability))

    def dropped(self, condition: Condition, drop: Bool[Array, ""]) -> Condition:
        """The null condition if `drop`, otherwise `condition`."""
        null = self.null_of(condition)
        check_null(null, condition)
        return jax.tree.map(lambda given, other: jnp.where(drop, other, given), condition, null)

    def null_of(self, condition: Condition) -> Condition:
        """The null condition for `condition`: `null` if given, otherwise zeros of the same structure."""
        if callable(self.null):
            return self.null(condition)
        if self.null is not None:
            return self.null
        if any(jnp.issubdtype(jnp.result_type(leaf), jnp.integer) for leaf in jax.tree.leaves(condition)):
            raise ValueError(
                "ConditionDropout without null would replace integer labels by 0, which is a class; pass null= with "
                "the label of no class, such as num_classes."
            )
        return jax.tree.map(jnp.zeros_like, condition)


def check_null(null: Condition, condition: Condition) -> None:
    """Raises `ValueError` unless a null condition has the structure of the condition and shapes that fit."""
    found, wanted = jax.tree.structure(null), jax.tree.structure(condition)
    if found != wanted:
        raise ValueError(f"null has the structure {found} but the condition has {wanted}; both must agree.")
    for one, leaf in zip(jax.tree.leaves(null), jax.tree.leaves(condition), strict=True):
        if np.shape(as_real("null", one)) not in ((), np.shape(leaf)):
            raise ValueError(f"null has a leaf of shape {np.shape(one)} but the condition has {np.shape(leaf)}.")


def drop_condition(
    dropout: ConditionDropout | None, condition: Condition, key: KeyArray | None
) -> tuple[Condition, KeyArray | None]:
    """The condition that the network takes in training, and the key that remains for its own dropout.

    Without `dropout`, or with `key=None` as in validation, both are returned unchanged.
    """
    if dropout is None or key is None:
        return condition, key
    key, dropout_key = jax.random.split(key)
    return dropout(condition, dropout_key), key


class Matching(AbstractLoss):
    """The matching loss of the model's own target.

    **Reference:** [@lipman2023flow].
    """

    weight: AbstractWeight = UniformWeight()
    times: AbstractTimes = Stratified()
    condition_dropout: ConditionDropout | None = None
    reduction: AbstractReduction = Mean()

    def __call__(
        self, model: Model, t: Scalar, x0: Event, x1: Event, condition: Condition = None, *, key: KeyArray | None = None
    ) -> Array:
        kept, key = drop_condition(self.condition_dropout, condition, key)
        x = model.interpolant.interpolate(t, *in_single((x0, x1))).astype(x1.dtype)
        return self.measure(model, model.output(t, x, kept, key=key), t, x0, x1, condition)

    def measure(self, model: Model, output: Event, t: Scalar, x0: Event, x1: Event, condition: Condition) -> Array:
        """The loss of an `output` in the model's target. `condition` is the full condition, which may hold a mask."""
        output, x0, x1 = in_single((output, x0, x1))
        scales = model.schedule.scales(t, x1.dtype)
        error = output - model.regression_target(x0, x1, scales, t)
        return self.weight(model.target, model.schedule, t, scales) * self.reduction(error, condition)
