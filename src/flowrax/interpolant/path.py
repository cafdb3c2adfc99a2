r"""$x_t = \alpha(t)\, x_1 + \sigma(t)\, x_0$, and with a latent $x_t = \alpha x_1 + \sigma x_0 + \gamma(t)\, z$.

The latent $z \sim \mathcal{N}(0, I)$ is independent of both ends. These may then be two data sets with any coupling,
because the score, $-\mathbb{E}[z | x_t] / \gamma$, depends only on $z$.
"""

from typing import ClassVar

import jax.numpy as jnp

from .._base import random
from .._base.typing import Array, Event, KeyArray, Times
from ..schedule import AbstractSchedule, AbstractSigmaSchedule, Singularities
from .base import AbstractInterpolant
from .gamma import AbstractGamma


class Affine(AbstractInterpolant):
    """The affine path between noise and data that a schedule defines."""

    schedule: AbstractSchedule
    gamma: ClassVar[None] = None

    def noise(self, key: KeyArray, x0: Event) -> Event:
        return x0

    def interpolate(self, t: Times, x0: Event, x1: Event) -> Event:
        alpha, sigma = (scale.astype(x1.dtype) for scale in (self.schedule.alpha(t), self.schedule.sigma(t)))
        return alpha * x1 + sigma * x0

    def velocity(self, t: Times, x0: Event, x1: Event) -> Event:
        alpha_rate, sigma_rate = self.schedule.alpha_rate(t), self.schedule.sigma_rate(t)
        return alpha_rate.astype(x1.dtype) * x1 + sigma_rate.astype(x1.dtype) * x0


class Latent(AbstractInterpolant):
    r"""A path with a latent (Albergo et al. 2023, definition 2.1).

    The argument `x0` of `interpolate` and `velocity` stacks $x_0$ and $z$, `(2, *event)`, as returned by `noise`.

    `Linear()` or `Cosine()` with a `gamma` that vanishes at the ends gives the linear or trigonometric interpolant, and
    [`EncoderDecoder`][] with `SineSquared()` the encoder-decoder interpolant. `Linear()` with `Brownian(s)` is the path
    of Schroedinger bridge matching (Tong et al. 2024), with the coupling `Sinkhorn(2 * s**2, absolute=True)`.
    `Linear()` with `ConstantGamma(s)` is the path of conditional flow matching. The mirror interpolant is `Linear()`
    with each point paired with itself: `fit(..., x0=data)`.

    **References:** [@albergo2023stochastic], [@tong2024simulation].
    """

    schedule: AbstractSchedule
    gamma: AbstractGamma

    def noise(self, key: KeyArray, x0: Event) -> Event:
        return jnp.stack([x0, random.normal(key, x0.shape, x0.dtype)])

    def interpolate(self, t: Times, x0: Event, x1: Event) -> Event:
        x0, z = x0
        scales = self.schedule.alpha(t), self.schedule.sigma(t), self.gamma(t)
        alpha, sigma, gamma = (scale.astype(x1.dtype) for scale in scales)
        return alpha * x1 + sigma * x0 + gamma * z

    def velocity(self, t: Times, x0: Event, x1: Event) -> Event:
        x0, z = x0
        rates = self.schedule.alpha_rate(t), self.schedule.sigma_rate(t), self.gamma.rate(t)
        alpha_rate, sigma_rate, gamma_rate = (rate.astype(x1.dtype) for rate in rates)
        return alpha_rate * x1 + sigma_rate * x0 + gamma_rate * z


class EncoderDecoder(AbstractSigmaSchedule):
    r"""$\sigma = \cos^2 \pi t$ for $t < \tfrac12$ and $\alpha = \cos^2 \pi t$ for $t > \tfrac12$, zero elsewhere.

    This schedule is for [`Latent`][] only: both scales vanish at $t = \tfrac12$.
    """

    singularities: ClassVar[Singularities] = Singularities(log_snr=(0.0, 1.0), forward_sde=(0.0, 1.0))

    def alpha(self, t: Times) -> Array:
        t = jnp.asarray(t)
        return jnp.where(t > 0.5, jnp.cos(jnp.pi * t) ** 2, 0)

    def sigma(self, t: Times) -> Array:
        t = jnp.asarray(t)
        return jnp.where(t < 0.5, jnp.cos(jnp.pi * t) ** 2, 0)

    def alpha_rate(self, t: Times) -> Array:
        t = jnp.asarray(t)
        return jnp.where(t > 0.5, -jnp.pi * jnp.sin(2 * jnp.pi * t), 0)

    def sigma_rate(self, t: Times) -> Array:
        t = jnp.asarray(t)
        return jnp.where(t < 0.5, -jnp.pi * jnp.sin(2 * jnp.pi * t), 0)

    def log_snr(self, t: Times) -> Array:
        return jnp.where(jnp.asarray(t) < 0.5, -jnp.inf, jnp.inf)

    def time_at(self, log_snr: Times) -> Array:
        return jnp.full_like(log_snr, 0.5)
