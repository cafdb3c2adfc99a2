"""Distributions of the training time: on the unit interval (0 is noise, 1 is data), and by noise level."""

import jax
import jax.numpy as jnp

from .._base import random
from .._base.checks import check_not_negative, check_number, check_positive, time_dtype
from .._base.typing import Array, DType, KeyArray, Times
from ..schedule import AbstractSchedule
from .base import AbstractTimes, AbstractUnitTimes


class Uniform(AbstractUnitTimes):
    """Independent uniform times."""

    def unit(self, key: KeyArray, n: int, dtype: DType) -> Array:
        return random.uniform(key, (n,), dtype)


class Antithetic(AbstractUnitTimes):
    """Uniform times in antithetic pairs `u` and `1 - u`: parts of the loss that are odd about 1/2 cancel in a batch."""

    def unit(self, key: KeyArray, n: int, dtype: DType) -> Array:
        half = random.uniform(key, ((n + 1) // 2,), dtype)
        return jnp.concatenate([half, 1 - half])[:n]


class Stratified(AbstractUnitTimes):
    """An even grid with one random shift (Kingma et al. 2021, appendix I.1).

    Each time is uniform, and the mean of the loss over a batch has less variance than with independent times.
    """

    def unit(self, key: KeyArray, n: int, dtype: DType) -> Array:
        shift = random.uniform(key, (), dtype)
        return jnp.mod(shift + jnp.arange(n, dtype=dtype) / n, 1)


class LogitNormal(AbstractUnitTimes):
    """The logistic function of a Gaussian (Esser et al. 2024, eq. 19): more weight on the middle of the path.

    Reverse the sign of a `mean` that was chosen for a time that runs from data to noise.
    """

    mean: float = 0.0
    std: float = 1.0

    def __check_init__(self) -> None:
        check_number("mean", self.mean)
        check_not_negative("std", self.std)

    def unit(self, key: KeyArray, n: int, dtype: DType) -> Array:
        return jax.nn.sigmoid(self.mean + self.std * random.normal(key, (n,), dtype))


class Beta(AbstractUnitTimes):
    """The beta distribution, with density proportional to `t^(a - 1) (1 - t)^(b - 1)`.

    The default puts more weight on the data end. Exchange `a` and `b` if they were chosen for a time that runs from
    data to noise.
    """

    a: float = 2.0
    b: float = 1.0

    def __check_init__(self) -> None:
        check_positive("a", self.a)
        check_positive("b", self.b)

    def unit(self, key: KeyArray, n: int, dtype: DType) -> Array:
        return random.beta(key, self.a, self.b, (n,), dtype)


class LogNormal(AbstractTimes):
    r"""Log-normal noise per unit of data, $\log (\sigma / \alpha) \sim \mathcal{N}(m, s^2)$, as in the training of EDM.

    The distribution is truncated to the noise levels of the interval. On the path of [`Linear`][] it is
    [`LogitNormal`][] with mean `-m` and standard deviation `s`, truncated to the interval.

    **Reference:** [@karras2022elucidating].
    """

    schedule: AbstractSchedule
    mean: float = -1.2
    std: float = 1.2

    def __check_init__(self) -> None:
        check_number("mean", self.mean)
        check_positive("std", self.std)

    def __call__(self, key: KeyArray, n: int, t_min: float, t_max: float, dtype: DType) -> Array:
        """`n` times in `[t_min, t_max]`, of shape `(n,)`."""
        # log SNR = -2 log(sigma / alpha).
        work = time_dtype(dtype)
        low, high = (-(end / 2 + self.mean) / self.std for end in _log_snr_ends(self.schedule, t_min, t_max, work))
        z = random.truncated_normal(key, high, low, (n,), work)
        return jnp.clip(self.schedule.time_at(-2 * (self.mean + self.std * z)), t_min, t_max).astype(dtype)

    def correction(self, t: Times, t_min: float, t_max: float) -> Array:
        return jnp.ones(())


class LikelihoodTimes(AbstractTimes):
    r"""Importance sampling for `loss.Likelihood` weights: density proportional to $g^2 / \sigma^2$ (Song et al. 2021b).

    For every schedule $g^2 = \sigma^2 \dot\lambda$, so the density is proportional to $\dot\lambda$: the log-SNR is
    uniform, and `time_at` is the inverse of the distribution function. The weight $g^2$ on the score error is the
    weight $g^2 / \sigma^2$ on the noise error, which becomes constant after the correction. `fit` divides the loss by
    the density, so the expected loss and its gradient are the same as with uniform times.

    The log-SNR must be finite on the interval: give the model a `t_min` and `t_max`, or use [`Within`][].

    **Reference:** [@song2021maximum].
    """

    schedule: AbstractSchedule
    level: AbstractUnitTimes = Stratified()
    """The uniform distribution of the log-SNR on its interval. Default: `Stratified()`, which reduces the variance."""

    def __call__(self, key: KeyArray, n: int, t_min: float, t_max: float, dtype: DType) -> Array:
        """`n` times in `[t_min, t_max]`, `(n,)`. Raises `ValueError` if the log-SNR is infinite at either end."""
        work = time_dtype(dtype)
        low, high = self._ends(t_min, t_max, work)
        u = self.level.unit(key, n, work)
        return jnp.clip(self.schedule.time_at(low + (high - low) * u), t_min, t_max).astype(dtype)

    def correction(self, t: Times, t_min: float, t_max: float) -> Array:
        t = jnp.asarray(t)
        low, high = self._ends(t_min, t_max, t.dtype)
        rate = self.schedule.diffusion_squared(t) / self.schedule.sigma(t) ** 2
        return (high - low) / ((t_max - t_min) * rate)

    def _ends(self, t_min: float, t_max: float, dtype: DType) -> tuple[Array, Array]:
        for name, t in (("t_min", t_min), ("t_max", t_max)):
            if t in self.schedule.singularities.log_snr:
                raise ValueError(
                    f"The log-SNR is infinite at {name}={t}, so LikelihoodTimes cannot draw it uniformly; give the "
                    f"model another {name}, or use times.Within(LikelihoodTimes(...), 1e-3, 1 - 1e-3)."
                )
        return _log_snr_ends(self.schedule, t_min, t_max, dtype)


def _log_snr_ends(schedule: AbstractSchedule, t_min: float, t_max: float, dtype: DType) -> tuple[Array, Array]:
    low, high = (schedule.log_snr(jnp.asarray(t, dtype)) for t in (t_min, t_max))
    return low, high
