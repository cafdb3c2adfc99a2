r"""$x_t = x_1$ with probability $\alpha(t)$ and $x_t = x_0$ otherwise, independently at each site of an event.

The conditional distribution is $q(x_t | x_1) = \alpha\, \delta_{x_1} + (1 - \alpha)\, \pi$, where $\pi$ is the prior.
This is $\bar Q_t$ of D3PM for uniform, absorbing and any other noise of this form (Austin et al. 2021, appendix A.2),
masked diffusion if $\pi$ is the mask, and the mixture path of discrete flow matching (Gat et al. 2024, eq. 8) with
$\kappa = \alpha$.
"""

import jax
import jax.numpy as jnp

from ..._base import random
from ..._base.typing import Array, DType, KeyArray, PyTree, Scalar, Tokens
from ..prior import AbstractCategoricalPrior
from ..schedule import AbstractMasking
from ..sites import log_or_infinity, probabilities_of, spread
from .base import AbstractCategoricalPath


class Mixture(AbstractCategoricalPath):
    """The mixture path: each site independently holds the data or the noise.

    **References:** [@austin2021structured], [@gat2024discrete].
    """

    schedule: AbstractMasking

    def check_prior(self, prior: AbstractCategoricalPrior) -> None:
        """Accepts every prior."""

    def noise(self, key: KeyArray, x0: Tokens) -> PyTree:
        """The draw `x0` of the prior, and a uniform number per site that decides at which time the site is lost."""
        return x0, random.uniform(key, x0.shape)

    def interpolate(self, t: Scalar, x0: PyTree, x1: Tokens) -> Tokens:
        x0, level = x0
        return jnp.where(level < self.schedule.alpha(t).astype(level.dtype), x1, x0)

    def marginal(self, prior: AbstractCategoricalPrior, t: Scalar, x1: Array) -> Array:
        p1 = probabilities_of(x1, prior.num_classes)
        alpha = self.schedule.alpha(t).astype(p1.dtype)
        lost = self.schedule.mask_probability(t).astype(p1.dtype)
        return alpha * p1 + lost * spread(prior.probabilities.astype(p1.dtype), p1.ndim)

    def log_marginal(self, prior: AbstractCategoricalPrior, t: Scalar, log_p1: Array) -> Array:
        lost = self.schedule.mask_probability(t) * prior.probabilities
        data = log_p1 + jnp.log(self.schedule.alpha(t)).astype(log_p1.dtype)
        noise = spread(log_or_infinity(lost).astype(log_p1.dtype), log_p1.ndim)
        noise = noise + jax.nn.logsumexp(log_p1, axis=-1, keepdims=True)
        top = jax.lax.stop_gradient(jnp.maximum(data, noise))
        top = jnp.where(top > -jnp.inf, top, 0)
        return log_or_infinity(jnp.exp(data - top) + jnp.exp(noise - top)) + top

    def transition(self, prior: AbstractCategoricalPrior, s: Scalar, t: Scalar, x: Array) -> Array:
        r"""$q(x_s | x_t) = \rho\, \delta_{x_t} + (1 - \rho)\, \pi$ with $\rho = \alpha_s / \alpha_t$."""
        p = probabilities_of(x, prior.num_classes)
        kept, lost = self._step(s, t, p.dtype)
        return kept * p + lost * spread(prior.probabilities.astype(p.dtype), p.ndim)

    def likelihood(self, prior: AbstractCategoricalPrior, s: Scalar, t: Scalar, x: Tokens) -> Array:
        r"""$q(x_s = x | x_t = k) = \rho\, \delta_{k x} + (1 - \rho)\, \pi_x$."""
        here = jax.nn.one_hot(x, prior.num_classes, dtype=prior.probabilities.dtype)
        kept, lost = self._step(s, t, here.dtype)
        return kept * here + lost * prior.probabilities[x][..., None]

    def _step(self, s: Scalar, t: Scalar, dtype: DType) -> tuple[Array, Array]:
        r"""$\rho$ and $1 - \rho$."""
        start, end = self.schedule.alpha(s), self.schedule.alpha(t)
        return (start / end).astype(dtype), (self._lost(s, t) / end).astype(dtype)

    def _lost(self, s: Scalar, t: Scalar) -> Array:
        r"""$\alpha_t - \alpha_s$, as a difference of $\alpha$ or of $1 - \alpha$, whichever is smaller."""
        start, end = self.schedule.alpha(s), self.schedule.alpha(t)
        return jnp.where(end < 0.5, end - start, self.schedule.mask_probability(s) - self.schedule.mask_probability(t))

    def posterior(self, prior: AbstractCategoricalPrior, s: Scalar, t: Scalar, x: Tokens, x1: Array) -> Array:
        r"""$\sum_{x_1} p(x_1)\, q(x_t | x_s = x, x_1)$, `(*shape, K)`, for $s < t$ and each site separately.

        `x1` holds tokens or probabilities. With $\rho = \alpha_s / \alpha_t$ (Austin et al. 2021, eq. 3)

        $$q(x_t = k | x_s, x_1) = \frac{[\rho\, \delta_{k, x_s} + (1 - \rho)\, \pi_{x_s}]\,
        [\alpha_t \delta_{k, x_1} + (1 - \alpha_t)\, \pi_k]}{\alpha_s \delta_{x_s, x_1} + (1 - \alpha_s)\, \pi_{x_s}}.$$

        If the state $x$ has probability zero under every class of the data, it is kept.
        """
        p1 = probabilities_of(x1, prior.num_classes)
        dtype, schedule = p1.dtype, self.schedule
        pi = prior.probabilities.astype(dtype)
        alpha_s, lost_s = schedule.alpha(s).astype(dtype), schedule.mask_probability(s).astype(dtype)
        alpha_t, lost_t = schedule.alpha(t).astype(dtype), schedule.mask_probability(t).astype(dtype)
        here = jax.nn.one_hot(x, prior.num_classes, dtype=dtype)
        pi_x, pi = pi[x][..., None], spread(pi, p1.ndim)
        back = alpha_s * here + self._lost(s, t).astype(dtype) * pi_x
        evidence = alpha_s * here + lost_s * pi_x
        ratio = jnp.where(evidence > 0, p1 / jnp.where(evidence > 0, evidence, 1), 0)
        weight = jnp.sum(ratio, axis=-1, keepdims=True)
        joint = back * (ratio + lost_t / alpha_t * pi * weight)
        return jnp.where(weight == 0, here, joint)


def as_path(path: AbstractCategoricalPath | AbstractMasking) -> AbstractCategoricalPath:
    """The path itself, or the [`Mixture`][] of a schedule."""
    return Mixture(path) if isinstance(path, AbstractMasking) else path
