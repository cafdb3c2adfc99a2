r"""$\alpha = t$, $\sigma = 1 - (1 - \sigma_{\min}) t$: flow matching with residual noise (Lipman et al. 2023)."""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp

from .._base.checks import check_positive
from .._base.typing import Array, Times
from .base import AbstractSchedule, Singularities


class ConditionalOT(AbstractSchedule):
    r"""The optimal transport path of flow matching, $x_t | x_1 \sim \mathcal{N}(t x_1, (1 - (1 - \sigma_{\min}) t)^2)$.

    The limit `sigma_min=0` is [`Linear`][]. A positive `sigma_min` leaves noise of that standard deviation at $t = 1$,
    so the score is finite there.

    **Reference:** [@lipman2023flow].
    """

    sigma_min: float = eqx.field(static=True)
    singularities: ClassVar[Singularities] = Singularities(log_snr=(0.0,), forward_sde=(0.0,))

    def __init__(self, sigma_min: float = 1e-4):
        """**Arguments:**

        - `sigma_min`: standard deviation of the noise at `t = 1`. Raises `ValueError` unless it is
            positive.
        """
        if isinstance(sigma_min, int | float) and sigma_min == 0:
            raise ValueError("sigma_min must be positive; got 0. For 0 use Linear().")
        check_positive("sigma_min", sigma_min)
        self.sigma_min = float(sigma_min)

    def alpha(self, t: Times) -> Array:
        return jnp.asarray(t)

    def sigma(self, t: Times) -> Array:
        t = jnp.asarray(t)
        return (1 - t) + self.sigma_min * t

    def alpha_rate(self, t: Times) -> Array:
        return jnp.ones_like(t)

    def sigma_rate(self, t: Times) -> Array:
        return jnp.full_like(t, self.sigma_min - 1)

    def variance_rate(self, t: Times) -> Array:
        return 2 * self.sigma(t) * (self.sigma_min - 1)

    def log_snr(self, t: Times) -> Array:
        return 2 * (jnp.log(t) - jnp.log(self.sigma(t)))

    def time_at(self, log_snr: Times) -> Array:
        inverse = jnp.exp(-jnp.asarray(log_snr) / 2) + 1 - self.sigma_min
        return 1 / jnp.where(inverse < 1, 1, inverse)
