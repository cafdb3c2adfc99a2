r"""Guidance of jump rates by a predictor of a property $y$ of the data: rates times a ratio of likelihoods.

Conditioned on $y$, the process removes noise at the rates $R(x \to x')\, p(y | x') / p(y | x)$, where $p(y | x)$ is the
likelihood of the noisy state at its time (Nisonoff et al. 2025). It adds noise at the unconditional rates. See
[`guided_jumps`][].
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp

from ..._base.checks import check_count, check_number, plain_int
from ..._base.typing import Array, Condition, Scalar, Tokens
from ..contract import AbstractCategoricalModel
from ..sampler.rates import AbstractRateGuide

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
        return self.weight * (slope - jnp.take_along_axis(slope, x[..., None], axis=-1))
