r"""Straight paths from noise to data: $\alpha = t$ with $\sigma = 1 - t$, with residual noise, or at another speed.

These are the paths of flow matching and rectified flow (Lipman et al. 2023; Liu et al. 2023).
"""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from .._base.checks import check_number, check_positive
from .._base.typing import Array, Times
from .base import AbstractSigmaSchedule, Singularities


class Linear(AbstractSigmaSchedule):
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

    def log_snr(self, t: Times) -> Array:
        return 2 * (jnp.log(t) - jnp.log1p(-jnp.asarray(t)))

    def time_at(self, log_snr: Times) -> Array:
        return jax.nn.sigmoid(jnp.asarray(log_snr) / 2)


class ConditionalOT(AbstractSigmaSchedule):
    r"""The optimal transport path of flow matching, $x_t | x_1 \sim \mathcal{N}(t x_1, (1 - (1 - \sigma_{\min}) t)^2)$.

    The limit `sigma_min=0` is [`Linear`][]. A positive `sigma_min` leaves noise of that standard deviation at $t = 1$,
    so the score is finite there.

    **Reference:** [@lipman2023flow].
    """

    sigma_min: float = eqx.field(static=True)
    singularities: ClassVar[Singularities] = Singularities(log_snr=(0.0,), forward_sde=(0.0,))

    def __init__(self, sigma_min: float = 1e-4):
        """**Arguments:**

        - `sigma_min`: standard deviation of the noise at `t = 1`. Raises `ValueError` unless it is positive.
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

    def log_snr(self, t: Times) -> Array:
        return 2 * (jnp.log(t) - jnp.log(self.sigma(t)))

    def time_at(self, log_snr: Times) -> Array:
        inverse = jnp.exp(-jnp.asarray(log_snr) / 2) + 1 - self.sigma_min
        return 1 / jnp.where(inverse < 1, 1, inverse)


class Polynomial(AbstractSigmaSchedule):
    r"""$\alpha = t^n$, $\sigma = 1 - t^n$: for $n > 1$ more of the time is spent near the noise end.

    This is the path of [`Linear`][] at another speed (Lipman et al. 2024, section 4.6).

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

    def log_snr(self, t: Times) -> Array:
        return 2 * (self.exponent * jnp.log(t) - jnp.log(self.sigma(t)))

    def time_at(self, log_snr: Times) -> Array:
        return jax.nn.sigmoid(jnp.asarray(log_snr) / 2) ** (1 / self.exponent)


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
