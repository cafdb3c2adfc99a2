r"""Schedules on the unit circle, $\alpha = \cos \theta$ and $\sigma = \sin \theta$ for an angle $\theta(t)$.

The angle decreases from $\pi / 2$ at the noise end, and

$$\dot\alpha = -\sigma \dot\theta, \qquad \dot\sigma = \alpha \dot\theta, \qquad
\lambda = 2 (\log \alpha - \log \sigma).$$
"""

import abc
import math
from typing import ClassVar

import jax.numpy as jnp

from .._base.checks import check_not_negative, check_positive
from .._base.typing import Array, Times
from .base import AbstractSigmaSchedule, Singularities
from .straight import lost_power, power

_QUARTER = math.pi / 2


class AbstractTrigonometric(AbstractSigmaSchedule):
    r"""A schedule on the unit circle. Subclasses define the scales, the rate of the angle and `time_at`."""

    @abc.abstractmethod
    def angle_rate(self, t: Times) -> Array:
        r"""$\dot\theta \le 0$, with respect to `t`."""

    def alpha_rate(self, t: Times) -> Array:
        return -self.sigma(t) * self.angle_rate(t)

    def sigma_rate(self, t: Times) -> Array:
        return self.alpha(t) * self.angle_rate(t)

    def log_snr(self, t: Times) -> Array:
        return 2 * (jnp.log(self.alpha(t)) - jnp.log(self.sigma(t)))


class Cosine(AbstractTrigonometric):
    r"""$\alpha = \sin(\pi t / 2)$, $\sigma = \cos(\pi t / 2)$: the geodesic on the unit circle.

    It is also called the trigonometric or generalised variance-preserving (GVP) schedule.

    $\sigma$ is computed as $\sin(\pi (1 - t) / 2)$, which is accurate in relative terms up to $t = 1$.

    **Reference:** [@albergo2023building].
    """

    singularities: ClassVar[Singularities] = Singularities(log_snr=(0.0, 1.0), forward_sde=(0.0,))

    def alpha(self, t: Times) -> Array:
        return jnp.sin(_QUARTER * jnp.asarray(t))

    def sigma(self, t: Times) -> Array:
        return jnp.sin(_QUARTER * (1 - jnp.asarray(t)))

    def angle_rate(self, t: Times) -> Array:
        return -_QUARTER * jnp.ones_like(t)

    def time_at(self, log_snr: Times) -> Array:
        return jnp.arctan(jnp.exp(jnp.asarray(log_snr) / 2)) / _QUARTER


class CosineSNR(AbstractTrigonometric):
    r"""$\mathrm{SNR} = \cot^2 \theta$ with $\theta = \tfrac{\pi}{2} \frac{(1 - t)^\nu + \varsigma}{1 + \varsigma}$.

    Equivalently, $\alpha = \cos \theta$ and $\sigma = \sin \theta$: the unnormalised cosine of Nichol & Dhariwal 2021.
    With $\varsigma = 0$ and $\nu = 1$ it is [`Cosine`][]. The offset leaves noise of standard deviation
    $\sin \frac{\pi \varsigma}{2 (1 + \varsigma)}$ at $t = 1$; at $t = 0$ the state is pure noise.

    **Reference:** [@nichol2021improved].
    """

    nu: float
    s: float

    def __init__(self, nu: float = 1.0, s: float = 0.008):
        r"""**Arguments:**

        - `nu`: the exponent $\nu$, positive. Below 1 the rates are infinite at $t = 1$.
        - `s`: the offset $\varsigma$, not negative.

        Raises `ValueError` for other values.
        """
        if not (nu > 0 and s >= 0):
            raise ValueError(f"nu must be positive and s not negative; got {nu} and {s}.")
        self.nu, self.s = float(nu), float(s)

    def __check_init__(self) -> None:
        check_positive("nu", self.nu)
        check_not_negative("s", self.s)

    @property
    def singularities(self) -> Singularities:
        at_data = (1.0,) if self.nu < 1 else ()
        return Singularities(
            log_snr=(0.0,) if self.s else (0.0, 1.0),
            forward_sde=(0.0, *at_data),
            alpha_rate=at_data,
            sigma_rate=at_data,
            variance_rate=at_data,
            determinant=(1.0,) if self.nu > 1 else (),
        )

    def _angle(self, t: Times) -> Array:
        return _QUARTER * (power(1 - jnp.asarray(t), self.nu) + self.s) / (1 + self.s)

    def angle_rate(self, t: Times) -> Array:
        return -_QUARTER * self.nu * power(1 - jnp.asarray(t), self.nu - 1) / (1 + self.s)

    def alpha(self, t: Times) -> Array:
        # The sine of the complementary angle is accurate in relative terms down to t = 0.
        return jnp.sin(_QUARTER / (1 + self.s) * lost_power(jnp.asarray(t), self.nu))

    def sigma(self, t: Times) -> Array:
        return jnp.sin(self._angle(t))

    def time_at(self, log_snr: Times) -> Array:
        angle = jnp.arctan(jnp.exp(-jnp.asarray(log_snr) / 2)) / _QUARTER
        # Rounding at the data end can give an angle slightly below the smallest one of the schedule.
        return 1 - jnp.maximum(angle * (1 + self.s) - self.s, 0) ** (1 / self.nu)
