r"""Guidance of categorical models by two predictions, combined at each site.

$$p(x_1^i = k | x_t) \propto p_{\text{null}}^{1 - w}\, p_{\text{cond}}^{w}.$$
"""

import equinox as eqx
import jax
import jax.numpy as jnp

from ..._base.checks import check_instance, check_number
from ..._base.typing import Array, BatchLike, Condition, DType, KeyArray, Scalar, Shape, Tokens
from ...prior import AbstractPrior
from ..contract import AbstractCategoricalModel, AbstractSampler
from ..path.base import AbstractCategoricalPath
from ..prior import AbstractCategoricalPrior


class ClassifierFreeCategorical(AbstractCategoricalModel):
    r"""Classifier-free guidance of a categorical model, or guidance by another model; it works with every sampler.

    For $w > 1$ its samples are sharper than samples of $p(x | c)$, and no noising process has its marginals, as with
    [`ClassifierFree`][]. A class to which either prediction assigns probability zero keeps the log-probability
    of the conditional prediction before renormalisation. Train one network for both predictions with
    `ConditionDropout`.

    **References:** [@ho2022classifier], [@schiff2025simple].
    """

    model: AbstractCategoricalModel
    other: AbstractCategoricalModel
    null: Condition
    weight: Array
    shape: Shape = eqx.field(static=True)
    dtype: DType = eqx.field(static=True)
    t_min: float = eqx.field(static=True)
    t_max: float = eqx.field(static=True)

    def __init__(
        self,
        model: AbstractCategoricalModel,
        weight: float | Array,
        *,
        null: Condition = None,
        other: AbstractCategoricalModel | None = None,
    ):
        """**Arguments:**

        - `model`: a conditional model.
        - `weight`: the guidance weight $w$: 0 gives the other prediction, 1 the prediction of `model`, and values above
            1 amplify the condition. A scalar, or one weight for each site, of the shape of an event.
        - `null`: the condition of the other prediction: the null condition of training. With None, `other` takes the
            same condition as `model`.
        - `other`: the model of the other prediction, with the same path, prior and events. Default: `model`.

        **Raises:** `ValueError` if neither `null` nor `other` is given, if `other` has another path or prior, or if
        `weight` has another shape.
        """
        if null is None and other is None:
            raise ValueError(
                "ClassifierFreeCategorical needs null=<the null condition of training>, or other=<a model>."
            )
        self.model, self.other, self.null = model, model if other is None else other, null
        check_instance("model", self.model, AbstractCategoricalModel)
        check_instance("other", self.other, AbstractCategoricalModel)
        if not eqx.tree_equal((self.other.interpolant, self.other.prior), (model.interpolant, model.prior)):
            raise ValueError("other has another path or prior than the model; both must have the same noise.")
        self.weight = jnp.asarray(weight, model.dtype)
        if self.weight.shape not in ((), model.shape):
            raise ValueError(
                f"weight has shape {self.weight.shape}; it must be a scalar or have the shape of an event, "
                f"{model.shape}."
            )
        self.shape, self.dtype = model.shape, model.dtype
        self.t_min = max(model.t_min, self.other.t_min)
        self.t_max = min(model.t_max, self.other.t_max)

    def __check_init__(self) -> None:
        check_number("weight", self.weight)

    @property
    def interpolant(self) -> AbstractCategoricalPath:
        return self.model.interpolant

    @property
    def prior(self) -> AbstractCategoricalPrior:
        return self.model.prior

    @property
    def source(self) -> AbstractPrior:
        return self.model.source

    @property
    def default_sampler(self) -> AbstractSampler:
        """The sampler of the model without guidance."""
        return self.model.default_sampler

    def events(self, name: str, x: BatchLike, size: int | None = None) -> Array:
        """The events `x` as the wrapped model takes them."""
        return self.model.events(name, x, size)

    def log_probabilities(
        self, t: Scalar, x: Tokens, condition: Condition = None, *, key: KeyArray | None = None
    ) -> Array:
        r"""The combined and renormalised $\log p(x_1^i = k | x_t)$, `(*shape, K)`."""
        null = condition
        if self.null is not None:
            null = jax.tree.map(lambda given, null: jnp.asarray(null, given.dtype), condition, self.null)
        own = self.model.log_probabilities(t, x, condition, key=key)
        other = self.other.log_probabilities(t, x, null, key=key)
        possible = (own > -jnp.inf) & (other > -jnp.inf)
        more = jnp.where(possible, own, 0) - jnp.where(possible, other, 0)
        weight = jnp.broadcast_to(self.weight.astype(own.dtype), self.shape)[..., None]
        return jnp.where(weight == 0, other, jax.nn.log_softmax(own + (weight - 1) * more, axis=-1))
