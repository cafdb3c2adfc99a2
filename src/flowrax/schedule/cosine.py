r"""$\alpha = \sin(\pi t / 2)$, $\sigma = \cos(\pi t / 2)$: the geodesic on the unit circle."""

import math
from typing import ClassVar

import jax.numpy as jnp

from .._base.typing import Array, Times
from .base import AbstractSchedule, Singularities

_QUARTER = math.pi / 2


class Cosine(AbstractSchedule):
    r"""The trigonometric or generalised variance-preserving (GVP) schedule, $\alpha^2 + \sigma^2 = 1$.

    $\sigma$ is computed as $\sin(\pi (1 - t) / 2)$, which is accurate in relative terms up to $t = 1$.

    **Reference:** [@albergo2023building].
    """

    singularities: ClassVar[Singularities] = Singularities(log_snr=(0.0, 1.0), forward_sde=(0.0,))

    def alpha(self, t: Times) -> Array:
        return jnp.sin(_QUARTER * jnp.asarray(t))

    def sigma(self, t: Times) -> Array:
        return jnp.sin(_QUARTER * (1 - jnp.asarray(t)))

    def alpha_rate(self, t: Times) -> Array:
        return _QUARTER * self.sigma(t)

    def sigma_rate(self, t: Times) -> Array:
        return -_QUARTER * self.alpha(t)

    def variance_rate(self, t: Times) -> Array:
        return 2 * self.sigma(t) * self.sigma_rate(t)

    def log_snr(self, t: Times) -> Array:
        return 2 * (jnp.log(self.alpha(t)) - jnp.log(self.sigma(t)))

    def time_at(self, log_snr: Times) -> Array:
        return jnp.arctan(jnp.exp(jnp.asarray(log_snr) / 2)) / _QUARTER
