r"""Schedules defined by a rate $\beta(s)$ and its integral $B(s)$ over diffusion time $s = 1 - t$:

$$\alpha = e^{-B/2}, \qquad \sigma_{\text{VP}} = \sqrt{1 - e^{-B}}, \qquad \sigma_{\text{sub-VP}} = 1 - e^{-B}$$

(Song et al. 2021, appendix B and C). VP and sub-VP have $\beta = \beta_{\min} + (\beta_{\max} - \beta_{\min}) s$.
"""

import abc
from typing import ClassVar

import jax
import jax.numpy as jnp

from .._base.checks import check_number, check_positive
from .._base.typing import Array, Times
from .base import AbstractSchedule, AbstractSigmaSchedule, Singularities, within_unit


class AbstractVariancePreserving(AbstractSchedule):
    r"""$\alpha = e^{-B/2}$, $\sigma = \sqrt{1 - e^{-B}}$ for any integrated rate $B(s)$; $f = -\beta/2$, $g^2 = \beta$.

    The scales are accurate at both ends in single precision, because $1 - e^{-B}$ is computed with `expm1`.
    """

    @abc.abstractmethod
    def rate(self, t: Times) -> Array:
        r"""$\beta = \mathrm{d}B / \mathrm{d}s$ at $s = 1 - t$."""

    @abc.abstractmethod
    def integral(self, t: Times) -> Array:
        r"""$B$ at $s = 1 - t$."""

    @abc.abstractmethod
    def time_at_integral(self, integral: Array) -> Array:
        r"""The time at which $B$ equals `integral`."""

    def alpha(self, t: Times) -> Array:
        return jnp.exp(-self.integral(t) / 2)

    def sigma(self, t: Times) -> Array:
        return jnp.sqrt(-jnp.expm1(-self.integral(t)))

    def alpha_rate(self, t: Times) -> Array:
        return self.rate(t) / 2 * self.alpha(t)

    def sigma_rate(self, t: Times) -> Array:
        return self.variance_rate(t) / (2 * self.sigma(t))

    def variance_rate(self, t: Times) -> Array:
        return -self.rate(t) * jnp.exp(-self.integral(t))

    def log_snr(self, t: Times) -> Array:
        return -jnp.log(jnp.expm1(self.integral(t)))

    def time_at(self, log_snr: Times) -> Array:
        return self.time_at_integral(jax.nn.softplus(-jnp.asarray(log_snr)))


class VariancePreserving(AbstractVariancePreserving):
    r"""The continuous limit of DDPM: $\alpha^2 + \sigma^2 = 1$, $f = -\beta/2$, $g^2 = \beta$.

    $\dot\sigma$ is infinite at $t = 1$, where $\sigma \sim \sqrt{\beta_{\min} (1 - t)}$, but the marginal velocity of
    data with a smooth density is finite. At $t = 0$ a small part of the data remains:
    $\alpha(0) = e^{-(\beta_{\min} + \beta_{\max})/4} = 0.0066$ with the defaults.

    **Reference:** [@song2021score].
    """

    beta_min: float
    beta_max: float
    singularities: ClassVar[Singularities] = Singularities(log_snr=(1.0,), sigma_rate=(1.0,))

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0):
        """**Arguments:**

        - `beta_min`: the rate at the data end, `t = 1`, per unit of time.
        - `beta_max`: the rate at the noise end, `t = 0`. Raises `ValueError` unless `0 < beta_min <= beta_max`.
        """
        if not 0 < beta_min <= beta_max:
            raise ValueError(f"beta needs 0 < beta_min <= beta_max; got {beta_min} and {beta_max}.")
        self.beta_min, self.beta_max = float(beta_min), float(beta_max)

    def __check_init__(self) -> None:
        check_number("beta_min", self.beta_min)
        check_number("beta_max", self.beta_max)

    def rate(self, t: Times) -> Array:
        return self.beta_min + (self.beta_max - self.beta_min) * (1 - jnp.asarray(t))

    def integral(self, t: Times) -> Array:
        s = 1 - jnp.asarray(t)
        return s * (self.beta_min + (self.beta_max - self.beta_min) / 2 * s)

    def time_at_integral(self, integral: Array) -> Array:
        slope, whole = self.beta_max - self.beta_min, (self.beta_min + self.beta_max) / 2
        integral = jnp.where(integral > whole, whole, integral)
        return within_unit(1 - 2 * integral / (self.beta_min + jnp.sqrt(self.beta_min**2 + 2 * slope * integral)))


class SubVariancePreserving(AbstractSigmaSchedule):
    r"""Sub-VP, $\sigma = 1 - \alpha^2 = \sigma_{\text{VP}}^2$, $f = -\beta/2$, $g^2 = \beta (1 - e^{-2B})$.

    It has less noise than [`VariancePreserving`][] at every time.

    **Reference:** [@song2021score].
    """

    preserving: VariancePreserving
    singularities: ClassVar[Singularities] = Singularities(log_snr=(1.0,))

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0):
        """**Arguments:**

        - `beta_min`, `beta_max`: as in [`VariancePreserving`][].
        """
        self.preserving = VariancePreserving(beta_min, beta_max)

    def alpha(self, t: Times) -> Array:
        return self.preserving.alpha(t)

    def sigma(self, t: Times) -> Array:
        return -jnp.expm1(-self.preserving.integral(t))

    def alpha_rate(self, t: Times) -> Array:
        return self.preserving.alpha_rate(t)

    def sigma_rate(self, t: Times) -> Array:
        return self.preserving.variance_rate(t)

    def log_snr(self, t: Times) -> Array:
        return -self.preserving.integral(t) - 2 * jnp.log(self.sigma(t))

    def time_at(self, log_snr: Times) -> Array:
        # alpha / sigma = 1 / (2 sinh(B / 2)).
        return self.preserving.time_at_integral(2 * jnp.arcsinh(jnp.exp(-jnp.asarray(log_snr) / 2) / 2))


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
