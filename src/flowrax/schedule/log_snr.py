r"""Variance-preserving schedules defined by their log-SNR: $\alpha^2 = S(\lambda)$, $\sigma^2 = S(-\lambda)$.

$S$ is the logistic function, so $\alpha^2 + \sigma^2 = 1$, and (Kingma et al. 2021)

$$\dot\alpha = \tfrac12 \alpha \sigma^2 \dot\lambda, \qquad \dot\sigma = -\tfrac12 \sigma \alpha^2 \dot\lambda, \qquad
f = -\tfrac12 \sigma^2 \dot\lambda, \qquad g^2 = \beta = \sigma^2 \dot\lambda.$$
"""

import abc
import math
from typing import ClassVar

import jax
import jax.numpy as jnp

from .._base.checks import check_not_negative, check_number, check_positive
from .._base.typing import Array, Times
from .base import AbstractSchedule, Singularities, within_unit
from .polynomial import lost_power, power
from .variance_preserving import AbstractVariancePreserving


class AbstractLogSNR(AbstractSchedule):
    """A variance-preserving schedule. Subclasses define only the log-SNR, its derivative and its inverse."""

    @abc.abstractmethod
    def log_snr_rate(self, t: Times) -> Array:
        r"""$\dot\lambda \ge 0$, with respect to `t`."""

    def alpha(self, t: Times) -> Array:
        return jnp.sqrt(jax.nn.sigmoid(self.log_snr(t)))

    def sigma(self, t: Times) -> Array:
        return jnp.sqrt(jax.nn.sigmoid(-self.log_snr(t)))

    def alpha_rate(self, t: Times) -> Array:
        return self.alpha(t) * self.sigma(t) ** 2 * self.log_snr_rate(t) / 2

    def sigma_rate(self, t: Times) -> Array:
        return -self.sigma(t) * self.alpha(t) ** 2 * self.log_snr_rate(t) / 2

    def variance_rate(self, t: Times) -> Array:
        return 2 * self.sigma(t) * self.sigma_rate(t)


class LogLinearSNR(AbstractLogSNR):
    r"""$\lambda = \lambda_{\min} + t\, (\lambda_{\max} - \lambda_{\min})$, as in Chroma (Ingraham et al. 2023).

    All methods are finite on $[0, 1]$. At $t = 0$ some data remains, $\alpha^2 = S(\lambda_{\min})$, and at $t = 1$
    some noise remains, $\sigma^2 = S(-\lambda_{\max})$.

    **Reference:** [@ingraham2023illuminating].
    """

    minimum: float
    maximum: float
    singularities: ClassVar[Singularities] = Singularities()

    def __init__(self, minimum: float = -7.0, maximum: float = 13.5):
        """**Arguments:**

        - `minimum`: the log-SNR at the noise end, `t = 0`.
        - `maximum`: the log-SNR at the data end, `t = 1`. Raises `ValueError` unless it exceeds `minimum`.
        """
        if not minimum < maximum:
            raise ValueError(f"log-SNR needs minimum < maximum; got {minimum} and {maximum}.")
        self.minimum, self.maximum = float(minimum), float(maximum)

    def __check_init__(self) -> None:
        check_number("minimum", self.minimum)
        check_number("maximum", self.maximum)

    def log_snr(self, t: Times) -> Array:
        t = jnp.asarray(t)
        return self.minimum * (1 - t) + self.maximum * t

    def log_snr_rate(self, t: Times) -> Array:
        return jnp.full_like(t, self.maximum - self.minimum)

    def time_at(self, log_snr: Times) -> Array:
        return within_unit((jnp.asarray(log_snr) - self.minimum) / (self.maximum - self.minimum))


class LinearSNR(AbstractVariancePreserving):
    r"""$\mathrm{SNR} = 1 / (e^B - 1)$ with $B(s) = B_0 + c\, s^2$, $s = 1 - t$: $\alpha^2 = e^{-B}$, $\beta = 2 c s$.

    $B_0 > 0$ leaves noise of variance $1 - e^{-B_0}$ at $t = 1$, so every method is finite there.

    **Reference:** [@kingma2021variational].
    """

    minimum: float
    growth: float
    singularities: ClassVar[Singularities] = Singularities(determinant=(1.0,))

    def __init__(self, minimum: float = 1e-4, growth: float = 10.0):
        r"""**Arguments:**

        - `minimum`: $B_0$, the integrated rate at $t = 1$.
        - `growth`: $c$. Raises `ValueError` unless both are positive.
        """
        if not (minimum > 0 and growth > 0):
            raise ValueError(f"minimum and growth must be positive; got {minimum} and {growth}.")
        self.minimum, self.growth = float(minimum), float(growth)

    def __check_init__(self) -> None:
        check_positive("minimum", self.minimum)
        check_positive("growth", self.growth)

    def rate(self, t: Times) -> Array:
        return 2 * self.growth * (1 - jnp.asarray(t))

    def integral(self, t: Times) -> Array:
        return self.minimum + self.growth * (1 - jnp.asarray(t)) ** 2

    def time_at_integral(self, integral: Array) -> Array:
        # The schedule has B >= B_0; rounding at the data end can give a slightly smaller value.
        return within_unit(1 - jnp.sqrt(jnp.maximum(integral - self.minimum, 0) / self.growth))


class CosineSNR(AbstractSchedule):
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

    def _angle_rate(self, t: Times) -> Array:
        return -_QUARTER * self.nu * power(1 - jnp.asarray(t), self.nu - 1) / (1 + self.s)

    def alpha(self, t: Times) -> Array:
        # The sine of the complementary angle is accurate in relative terms down to t = 0.
        return jnp.sin(_QUARTER / (1 + self.s) * lost_power(jnp.asarray(t), self.nu))

    def sigma(self, t: Times) -> Array:
        return jnp.sin(self._angle(t))

    def alpha_rate(self, t: Times) -> Array:
        return -self.sigma(t) * self._angle_rate(t)

    def sigma_rate(self, t: Times) -> Array:
        return self.alpha(t) * self._angle_rate(t)

    def variance_rate(self, t: Times) -> Array:
        return 2 * self.sigma(t) * self.sigma_rate(t)

    def log_snr(self, t: Times) -> Array:
        return 2 * (jnp.log(self.alpha(t)) - jnp.log(self.sigma(t)))

    def time_at(self, log_snr: Times) -> Array:
        angle = jnp.arctan(jnp.exp(-jnp.asarray(log_snr) / 2)) / _QUARTER
        # Rounding at the data end can give an angle slightly below the smallest one of the schedule.
        return 1 - jnp.maximum(angle * (1 + self.s) - self.s, 0) ** (1 / self.nu)


_QUARTER = math.pi / 2
