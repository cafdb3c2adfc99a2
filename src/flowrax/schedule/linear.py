r"""$\alpha = t$, $\sigma = 1 - t$: flow matching and rectified flow (Lipman et al. 2023; Liu et al. 2023)."""

from typing import ClassVar

import jax
import jax.numpy as jnp

from .._base.typing import Array, Times
from .base import AbstractSchedule, Singularities


class Linear(AbstractSchedule):
    r"""Straight lines from noise to data, $x_t = t\, x_1 + (1 - t)\, x_0$.

    The conditional velocity is finite on all of $[0, 1]$; the log-SNR runs from $-\infty$ to $\infty$.

    **Reference:** [@lipman2023flow].
    """

    singularities: ClassVar[Singularities] = Singularities(log_snr=(0.0, 1.0), forward_sde=(0.0,))

    def alpha(self, t: Times) -> Array:
        return jnp.asarray(t)

    def sigma(self, t: Times) -> Array:
        return 1 - jnp.asarray(t)

    def alpha_rate(self, t: Times) -> Array:
        return jnp.ones_like(t)

    def sigma_rate(self, t: Times) -> Array:
        return -jnp.ones_like(t)

    def variance_rate(self, t: Times) -> Array:
        return -2 * self.sigma(t)

    def log_snr(self, t: Times) -> Array:
        return 2 * (jnp.log(t) - jnp.log1p(-jnp.asarray(t)))

    def time_at(self, log_snr: Times) -> Array:
        return jax.nn.sigmoid(jnp.asarray(log_snr) / 2)
