r"""Schedules with $\alpha = 1$: VE (geometric $\sigma$) and EDM ($\sigma^{1/\rho}$ linear in time)."""

import math
from typing import ClassVar

import jax.numpy as jnp

from .._base.checks import check_positive
from .._base.typing import Array, Times
from .base import AbstractSchedule, AbstractSigmaSchedule, Singularities, within_unit


def _check_sigma(sigma_min: float, sigma_max: float) -> None:
    if not 0 < sigma_min < sigma_max:
        raise ValueError(f"sigma needs 0 < sigma_min < sigma_max; got {sigma_min} and {sigma_max}.")


class VarianceExploding(AbstractSchedule):
    r"""$\sigma(t) = \sigma_{\min} (\sigma_{\max} / \sigma_{\min})^{1 - t}$ (Song et al. 2021, appendix C).

    All methods are finite on $[0, 1]$. At $t = 1$ the state is data plus noise of standard deviation $\sigma_{\min}$.

    **Reference:** [@song2021score].
    """

    sigma_min: float
    sigma_max: float
    singularities: ClassVar[Singularities] = Singularities()

    def __init__(self, sigma_min: float = 0.01, sigma_max: float = 50.0):
        """**Arguments:**

        - `sigma_min`: the noise scale at `t = 1`, in units of the data.
        - `sigma_max`: the noise scale at `t = 0`, in units of the data. Raises `ValueError` unless
            `0 < sigma_min < sigma_max`.
        """
        _check_sigma(sigma_min, sigma_max)
        self.sigma_min, self.sigma_max = float(sigma_min), float(sigma_max)

    def __check_init__(self) -> None:
        check_positive("sigma_max", self.sigma_max)

    def _log_ratio(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    def alpha(self, t: Times) -> Array:
        return jnp.ones_like(t)

    def sigma(self, t: Times) -> Array:
        return self.sigma_min * jnp.exp(self._log_ratio() * (1 - jnp.asarray(t)))

    def alpha_rate(self, t: Times) -> Array:
        return jnp.zeros_like(t)

    def sigma_rate(self, t: Times) -> Array:
        return -self._log_ratio() * self.sigma(t)

    def variance_rate(self, t: Times) -> Array:
        return -2 * self._log_ratio() * self.sigma(t) ** 2

    def log_snr(self, t: Times) -> Array:
        return -2 * (math.log(self.sigma_min) + self._log_ratio() * (1 - jnp.asarray(t)))

    def time_at(self, log_snr: Times) -> Array:
        log_sigma = -jnp.asarray(log_snr) / 2
        return within_unit(1 - (log_sigma - math.log(self.sigma_min)) / self._log_ratio())


class EDM(AbstractSigmaSchedule):
    r"""$\sigma = \big((1 - t)\, \sigma_{\max}^{1/\rho} + t\, \sigma_{\min}^{1/\rho}\big)^\rho$, the grid of EDM, eq. 5.

    The paper uses $\sigma$ itself as the time; here $t$ is the fraction of the grid that has been traversed.

    **Reference:** [@karras2022elucidating].
    """

    sigma_min: float
    sigma_max: float
    rho: float
    singularities: ClassVar[Singularities] = Singularities()

    def __init__(self, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0):
        r"""**Arguments:**

        - `sigma_min`, `sigma_max`: as in [`VarianceExploding`][].
        - `rho`: the exponent $\rho$; a larger value spends more of the time at small noise. Raises `ValueError`
            unless it is positive.
        """
        _check_sigma(sigma_min, sigma_max)
        if not rho > 0:
            raise ValueError(f"rho must be positive; got {rho}.")
        self.sigma_min, self.sigma_max, self.rho = float(sigma_min), float(sigma_max), float(rho)

    def __check_init__(self) -> None:
        check_positive("sigma_max", self.sigma_max)
        check_positive("rho", self.rho)

    def _ends(self) -> tuple[float, float]:
        return self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)

    def _root(self, t: Times) -> Array:
        noise_end, data_end = self._ends()
        t = jnp.asarray(t)
        return (1 - t) * noise_end + t * data_end

    def alpha(self, t: Times) -> Array:
        return jnp.ones_like(t)

    def sigma(self, t: Times) -> Array:
        return self._root(t) ** self.rho

    def alpha_rate(self, t: Times) -> Array:
        return jnp.zeros_like(t)

    def sigma_rate(self, t: Times) -> Array:
        noise_end, data_end = self._ends()
        return self.rho * (data_end - noise_end) * self._root(t) ** (self.rho - 1)

    def log_snr(self, t: Times) -> Array:
        return -2 * self.rho * jnp.log(self._root(t))

    def time_at(self, log_snr: Times) -> Array:
        noise_end, data_end = self._ends()
        root = jnp.exp(-jnp.asarray(log_snr) / (2 * self.rho))
        return within_unit((noise_end - root) / (noise_end - data_end))
