r"""$\alpha = t^n$, $\sigma = 1 - t^n$ (Lipman et al. 2024, section 4.6)."""

import jax
import jax.numpy as jnp

from .._base.checks import check_number
from .._base.typing import Array, Times
from .base import AbstractSchedule, Singularities


def power(u: Array, exponent: float) -> Array:
    """`u**exponent`. A whole exponent is passed as an integer, so that all derivatives are finite at `u = 0`."""
    return u ** (int(exponent) if exponent == int(exponent) else exponent)


def lost_power(u: Array, exponent: float) -> Array:
    """`1 - (1 - u)**exponent`, accurate at small `u` and differentiable on all of [0, 1]."""
    small = u < 0.5
    return jnp.where(
        small,
        -jnp.expm1(exponent * jnp.log1p(-jnp.where(small, u, 0))),
        1 - power(1 - u, exponent),
    )


class Polynomial(AbstractSchedule):
    r"""The straight path of [`Linear`][] at another speed: for $n > 1$ more of the time is spent near the noise end.

    **Reference:** [@lipman2024flow].
    """

    exponent: float

    def __init__(self, exponent: float = 2.0):
        """**Arguments:**

        - `exponent`: $n$. Raises `ValueError` below 1, where the velocity would be infinite at `t = 0`.
        """
        if not exponent >= 1:
            raise ValueError(f"exponent must be at least 1; got {exponent}.")
        self.exponent = float(exponent)

    def __check_init__(self) -> None:
        check_number("exponent", self.exponent)

    @property
    def singularities(self) -> Singularities:
        determinant = (0.0,) if self.exponent > 1 else ()
        return Singularities(log_snr=(0.0, 1.0), forward_sde=(0.0,), determinant=determinant)

    def alpha(self, t: Times) -> Array:
        return power(jnp.asarray(t), self.exponent)

    def sigma(self, t: Times) -> Array:
        return lost_power(1 - jnp.asarray(t), self.exponent)

    def alpha_rate(self, t: Times) -> Array:
        return self.exponent * power(jnp.asarray(t), self.exponent - 1)

    def sigma_rate(self, t: Times) -> Array:
        return -self.alpha_rate(t)

    def variance_rate(self, t: Times) -> Array:
        return 2 * self.sigma(t) * self.sigma_rate(t)

    def log_snr(self, t: Times) -> Array:
        return 2 * (self.exponent * jnp.log(t) - jnp.log(self.sigma(t)))

    def time_at(self, log_snr: Times) -> Array:
        return jax.nn.sigmoid(jnp.asarray(log_snr) / 2) ** (1 / self.exponent)
