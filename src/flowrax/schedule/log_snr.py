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
import optimistix as optx

from .._base import random
from .._base.arrays import as_floats
from .._base.checks import check_count, check_number
from .._base.typing import Array, KeyArray, Times
from .base import AbstractSigmaSchedule, Singularities, within_unit


class AbstractLogSNR(AbstractSigmaSchedule):
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
        self.minimum, self.maximum = _ends(minimum, maximum)

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


class LearnedSNR(AbstractLogSNR):
    r"""A learned log-SNR: a monotone network $\psi$, rescaled to run from $\lambda_{\min}$ to $\lambda_{\max}$,

    $$\lambda(t) = \lambda_{\min} + (\lambda_{\max} - \lambda_{\min}) \frac{\psi(t) - \psi(0)}{\psi(1) - \psi(0)},$$

    $$\psi(t) = t + \sum_j w_j\, S(v_j t + b_j), \qquad w_j, v_j > 0,$$

    where $S$ is the logistic function, so $\lambda$ increases with $t$ for all parameter values. This is the paper's
    network of three positive layers, with its first layer, an affine map, absorbed into the second, and
    $\lambda = -\gamma$ in this library's time.

    `fit` trains the schedule together with the network of the model that contains it. Note that the continuous-time
    variational bound depends only on the two end values; the paper trains the rest of the curve to minimise the
    variance of the estimated bound.

    **Reference:** [@kingma2021variational].
    """

    minimum: float | Array
    maximum: float | Array
    log_weight: Array
    log_slope: Array
    offset: Array
    singularities: ClassVar[Singularities] = Singularities()

    def __init__(
        self,
        key: KeyArray,
        minimum: float = -7.0,
        maximum: float = 13.5,
        *,
        width: int = 64,
        learn_ends: bool = False,
    ):
        """**Arguments:**

        - `key`: random key for the initial parameters. The initial log-SNR is close to linear in time.
        - `minimum`, `maximum`: the log-SNR at `t = 0` and at `t = 1`. Raises `ValueError` unless the second is larger.
        - `width`: the number of hidden units; 1024 in the paper.
        - `learn_ends`: whether the two end values are trained too. Default: `False`.
        """
        self.minimum, self.maximum = _ends(minimum, maximum)
        width = check_count("width", width)
        if learn_ends:
            self.minimum, self.maximum = jnp.asarray(self.minimum, float), jnp.asarray(self.maximum, float)
        # The hidden units cover [0, 1] with sigmoids of different centres and widths, all with small weights at first.
        place_key, slope_key = jax.random.split(key)
        self.log_slope = random.uniform(slope_key, (width,), minval=math.log(4), maxval=math.log(32))
        self.offset = -jnp.exp(self.log_slope) * random.uniform(place_key, (width,))
        self.log_weight = jnp.full((width,), math.log(0.1 / width), self.offset.dtype)

    def __check_init__(self) -> None:
        check_number("minimum", self.minimum)
        check_number("maximum", self.maximum)

    def _parameters(self, t: Array) -> tuple[Array, Array, Array, Array, Array]:
        """The end values, weights, slopes and offsets, in the dtype of `t`."""
        values = (self.minimum, self.maximum, jnp.exp(self.log_weight), jnp.exp(self.log_slope), self.offset)
        return tuple(jnp.asarray(value, t.dtype) for value in values)  # pyright: ignore[reportReturnType]

    def _curve(self, t: Array) -> Array:
        _, _, weight, slope, offset = self._parameters(t)

        def at(t: Array) -> Array:
            return t + jnp.dot(weight, jax.nn.sigmoid(t * slope + offset))

        return jnp.vectorize(at)(t)

    def log_snr(self, t: Times) -> Array:
        (t,) = as_floats(t=t)
        low, high, *_ = self._parameters(t)
        first, now, last = self._curve(jnp.zeros_like(t)), self._curve(t), self._curve(jnp.ones_like(t))
        return low + (high - low) * ((now - first) / (last - first))

    def log_snr_rate(self, t: Times) -> Array:
        (t,) = as_floats(t=t)
        return jax.jvp(self.log_snr, (t,), (jnp.ones_like(t),))[1]

    def time_at(self, log_snr: Times) -> Array:
        (log_snr,) = as_floats(log_snr=log_snr)
        low, high, *_ = self._parameters(log_snr)
        # A log-SNR outside the range of the schedule has no time in [0, 1]; use the nearest end.
        log_snr = jnp.clip(log_snr, low, high)
        tolerance = float(jnp.finfo(log_snr.dtype).eps)
        # The curve continues beyond both ends, so a root exists even after rounding.
        solver, bracket = optx.Bisection(rtol=tolerance, atol=tolerance), dict(lower=-1.0, upper=2.0)

        def root(value: Array) -> Array:
            def excess(t: Array, schedule: LearnedSNR) -> Array:
                return schedule.log_snr(t) - value

            start = jnp.full_like(value, 0.5)
            return optx.root_find(excess, solver, start, self, options=bracket, max_steps=64, throw=False).value

        return within_unit(jax.vmap(root)(log_snr.ravel()).reshape(log_snr.shape))


def _ends(minimum: float, maximum: float) -> tuple[float, float]:
    if not minimum < maximum:
        raise ValueError(f"log-SNR needs minimum < maximum; got {minimum} and {maximum}.")
    return float(minimum), float(maximum)
