r"""The VP and sub-VP schedules: with $B(s) = \beta_{\min} s + \tfrac12 (\beta_{\max} - \beta_{\min}) s^2$, $s = 1 - t$,

$$\alpha = e^{-B/2}, \qquad \sigma_{\text{VP}} = \sqrt{1 - e^{-B}}, \qquad \sigma_{\text{sub-VP}} = 1 - e^{-B}$$

(Song et al. 2021, appendix B and C).
"""

import abc
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from .._base.checks import check_number
from .._base.typing import Array, Times
from .base import AbstractSchedule, Singularities, within_unit


class _LinearBeta(eqx.Module):
    r"""A rate $\beta(s)$ that is linear in diffusion time, its integral $B(s)$ and the inverse of the integral."""

    minimum: float
    maximum: float

    def __check_init__(self) -> None:
        check_number("beta_min", self.minimum)
        check_number("beta_max", self.maximum)

    def rate(self, t: Times) -> Array:
        s = 1 - jnp.asarray(t)
        return self.minimum + (self.maximum - self.minimum) * s

    def integral(self, t: Times) -> Array:
        s = 1 - jnp.asarray(t)
        return s * (self.minimum + (self.maximum - self.minimum) / 2 * s)

    def time_at(self, integral: Array) -> Array:
        slope, whole = self.maximum - self.minimum, (self.minimum + self.maximum) / 2
        integral = jnp.where(integral > whole, whole, integral)
        s = 2 * integral / (self.minimum + jnp.sqrt(self.minimum**2 + 2 * slope * integral))
        return within_unit(1 - s)


def _check_beta(beta_min: float, beta_max: float) -> _LinearBeta:
    if not 0 < beta_min <= beta_max:
        raise ValueError(f"beta needs 0 < beta_min <= beta_max; got {beta_min} and {beta_max}.")
    return _LinearBeta(float(beta_min), float(beta_max))


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

    beta: _LinearBeta
    singularities: ClassVar[Singularities] = Singularities(log_snr=(1.0,), sigma_rate=(1.0,))

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0):
        """**Arguments:**

        - `beta_min`: the rate at the data end, `t = 1`, per unit of time.
        - `beta_max`: the rate at the noise end, `t = 0`. Raises `ValueError` unless `0 < beta_min <= beta_max`.
        """
        self.beta = _check_beta(beta_min, beta_max)

    def rate(self, t: Times) -> Array:
        return self.beta.rate(t)

    def integral(self, t: Times) -> Array:
        return self.beta.integral(t)

    def time_at_integral(self, integral: Array) -> Array:
        return self.beta.time_at(integral)


class SubVariancePreserving(AbstractSchedule):
    r"""The sub-VP schedule, $\sigma = 1 - \alpha^2$, $f = -\beta/2$, $g^2 = \beta (1 - e^{-2B})$.

    It has less noise than [`VariancePreserving`][] at every time.

    **Reference:** [@song2021score].
    """

    beta: _LinearBeta
    singularities: ClassVar[Singularities] = Singularities(log_snr=(1.0,))

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0):
        """**Arguments:**

        - `beta_min`: the rate at the data end, `t = 1`, per unit of time.
        - `beta_max`: the rate at the noise end, `t = 0`. Raises `ValueError` unless `0 < beta_min <= beta_max`.
        """
        self.beta = _check_beta(beta_min, beta_max)

    def alpha(self, t: Times) -> Array:
        return jnp.exp(-self.beta.integral(t) / 2)

    def sigma(self, t: Times) -> Array:
        return -jnp.expm1(-self.beta.integral(t))

    def alpha_rate(self, t: Times) -> Array:
        return self.beta.rate(t) / 2 * self.alpha(t)

    def sigma_rate(self, t: Times) -> Array:
        return -self.beta.rate(t) * jnp.exp(-self.beta.integral(t))

    def variance_rate(self, t: Times) -> Array:
        return 2 * self.sigma(t) * self.sigma_rate(t)

    def log_snr(self, t: Times) -> Array:
        return -self.beta.integral(t) - 2 * jnp.log(self.sigma(t))

    def time_at(self, log_snr: Times) -> Array:
        # alpha / sigma = 1 / (2 sinh(B / 2)).
        return self.beta.time_at(2 * jnp.arcsinh(jnp.exp(-jnp.asarray(log_snr) / 2) / 2))
