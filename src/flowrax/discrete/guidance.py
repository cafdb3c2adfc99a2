r"""Guidance of categorical models: by two predictions, or of their jumps by a predictor of a property $y$ of the data.

Classifier-free guidance combines two predictions at each site,

$$p(x_1^i = k | x_t) \propto p_{\text{null}}^{1 - w}\, p_{\text{cond}}^{w}.$$

Conditioned on $y$, a jump process removes noise at the rates $R(x \to x')\, p(y | x') / p(y | x)$, where $p(y | x)$ is
the likelihood of the noisy state at its time (Nisonoff et al. 2025). It adds noise at the unconditional rates. See
[`guided_jumps`][].
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp

from .._base.arrays import as_real
from .._base.checks import check_count, check_instance, check_number, plain_int
from .._base.typing import Array, Condition, DType, KeyArray, Scalar, Shape, Tokens
from ..loss.matching import check_null
from .base import AbstractCategoricalModel, AbstractSampler
from .path.base import AbstractCategoricalPath
from .prior import AbstractCategoricalPrior
from .sampler.rates import AbstractRateGuide
from .sites import at_class


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
        self.null = jax.tree.map(lambda leaf: jnp.asarray(as_real("null", leaf)), null)
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
    def default_sampler(self) -> AbstractSampler:
        """The sampler of the model without guidance."""
        return self.model.default_sampler

    def log_probabilities(
        self, t: Scalar, x: Tokens, condition: Condition = None, *, key: KeyArray | None = None
    ) -> Array:
        r"""The combined and renormalised $\log p(x_1^i = k | x_t)$, `(*shape, K)`."""
        null = condition
        if self.null is not None:
            check_null(self.null, condition)
            null = jax.tree.map(lambda given, null: jnp.asarray(null, given.dtype), condition, self.null)
        own = self.model.log_probabilities(t, x, condition, key=key)
        other = self.other.log_probabilities(t, x, null, key=key)
        possible = (own > -jnp.inf) & (other > -jnp.inf)
        more = jnp.where(possible, own, 0) - jnp.where(possible, other, 0)
        weight = jnp.broadcast_to(self.weight.astype(own.dtype), self.shape)[..., None]
        return jnp.where(weight == 0, other, jax.nn.log_softmax(own + (weight - 1) * more, axis=-1))


LogLikelihood = Callable[[Scalar, Array, Condition], Array]
r"""`log_likelihood(t, x, condition)`, a scalar: $\log p(y | x_t = x)$ in nats, finite at all states reached."""


class LikelihoodRatio(AbstractRateGuide):
    r"""The exact likelihood ratio for every change of one site, with `L K` evaluations of the predictor per step.

    With an exact predictor and `weight=1`, samples follow $p(x | y)$ to first order in the step size. Several sites
    that jump in the same step may lead to a state of likelihood zero, for which the ratio is undefined; a sample in
    such a state is reported as failed unless no jumps remain.

    - `log_likelihood`: the log-likelihood of one integer event at one time, trained on noisy states.
    - `weight`: the exponent $\gamma$ of the ratio.
    - `batch_size`: the number of changes evaluated at once. Default: all of them.

    **Reference:** [@nisonoff2025unlocking].
    """

    log_likelihood: LogLikelihood
    weight: float | Array = 1.0
    batch_size: int | None = eqx.field(static=True, converter=plain_int, default=None)

    def __check_init__(self) -> None:
        check_number("weight", self.weight)
        if self.batch_size is not None:
            check_count("batch_size", self.batch_size)

    def log_factor(self, model: AbstractCategoricalModel, t: Scalar, x: Tokens, condition: Condition = None) -> Array:
        num_classes, sites = model.prior.num_classes, x.ravel()

        def changed(site: Array, to: Array) -> Array:
            return self.log_likelihood(t, sites.at[site].set(to).reshape(x.shape), condition)

        site, to = jnp.divmod(jnp.arange(x.size * num_classes, dtype=x.dtype), num_classes)
        size = site.size if self.batch_size is None else self.batch_size
        values = jax.lax.map(lambda pair: changed(*pair), (site, to), batch_size=size)
        return self.weight * (values.reshape(*x.shape, num_classes) - self.log_likelihood(t, x, condition))


class FirstOrderRatio(AbstractRateGuide):
    r"""A first-order approximation of the likelihood ratio, from one gradient of the predictor per step.

    $\log p(y | x') - \log p(y | x) \approx (e_{x'} - e_x) \cdot \nabla \log p(y | x)$ with one-hot vectors $e$. The
    approximation is exact if the log-likelihood is a sum of linear functions of the sites' one-hot vectors.

    - `log_likelihood`: the log-likelihood of one event given as one-hot vectors `(*shape, K)`, at one time,
      differentiable in them.
    - `weight`: the exponent $\gamma$ of the ratio.
    """

    log_likelihood: LogLikelihood
    weight: float | Array = 1.0

    def __check_init__(self) -> None:
        check_number("weight", self.weight)

    def log_factor(self, model: AbstractCategoricalModel, t: Scalar, x: Tokens, condition: Condition = None) -> Array:
        rows = jax.nn.one_hot(x, model.prior.num_classes, dtype=model.dtype)
        slope = jax.grad(lambda rows: self.log_likelihood(t, rows, condition))(rows)
        return self.weight * (slope - at_class(slope, x)[..., None])
