r"""Guidance of jumps by a predictor of what the data shall have: rates times a ratio of likelihoods.

The process given $y$ undoes noise at the rates $R(x \to x')\, p(y | x') / p(y | x)$, where $p(y | x)$ is the likelihood
of the noised state at its time (Nisonoff et al. 2025), and adds noise as it would without $y$: [`guided_jumps`][].
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp

from .._typing import Array, Condition, Scalar, Tokens
from ..abstract import AbstractCategoricalModel
from ..discrete import AbstractRateGuide

LogLikelihood = Callable[[Scalar, Array, Condition], Array]
r"""`log_likelihood(t, x, condition)`, a scalar: $\log p(y | x_t = x)$ in nats, finite wherever draws come to."""


class LikelihoodRatio(AbstractRateGuide):
    r"""The ratio itself, for every change of one site: `L K` evaluations of the predictor in a step.

    With the exact predictor and `weight=1` the law of the draws is $p(x | y)$, to first order in the steps. A state of
    likelihood zero, to which sites that jump together may lead, has no ratio: a sample there fails and says so, unless
    it has nowhere left to go.

    - `log_likelihood`: of one event of integers at one time, trained on noised states.
    - `weight`: $\gamma$, the power of the ratio.
    - `batch_size`: how many changes are evaluated at once; all of them without.

    **Reference:** [@nisonoff2025unlocking].
    """

    log_likelihood: LogLikelihood
    weight: float | Array = 1.0
    batch_size: int | None = eqx.field(static=True, default=None)

    def log_factor(self, model: AbstractCategoricalModel, t: Scalar, x: Tokens, condition: Condition = None) -> Array:
        num_classes, sites = model.prior.num_classes, x.ravel()

        def changed(site: Array, to: Array) -> Array:
            return self.log_likelihood(t, sites.at[site].set(to).reshape(x.shape), condition)

        site, to = jnp.divmod(jnp.arange(x.size * num_classes, dtype=x.dtype), num_classes)
        size = site.size if self.batch_size is None else self.batch_size
        values = jax.lax.map(lambda pair: changed(*pair), (site, to), batch_size=size)
        return self.weight * (values.reshape(*x.shape, num_classes) - self.log_likelihood(t, x, condition))


class FirstOrderRatio(AbstractRateGuide):
    r"""The ratio by one gradient of the predictor with respect to one-hot rows, at the price of one evaluation.

    $\log p(y | x') - \log p(y | x) \approx (e_{x'} - e_x) \cdot \nabla \log p(y | x)$, which is right where the
    log-likelihood is a sum over sites.

    - `log_likelihood`: of one event as one-hot rows `(*shape, K)` at one time, differentiable in them.
    - `weight`: $\gamma$, the power of the ratio.
    """

    log_likelihood: LogLikelihood
    weight: float | Array = 1.0

    def log_factor(self, model: AbstractCategoricalModel, t: Scalar, x: Tokens, condition: Condition = None) -> Array:
        rows = jax.nn.one_hot(x, model.prior.num_classes, dtype=model.dtype)
        slope = jax.grad(lambda rows: self.log_likelihood(t, rows, condition))(rows)
        return self.weight * (slope - jnp.take_along_axis(slope, x[..., None], axis=-1))
