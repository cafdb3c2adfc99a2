r"""The path of a schedule traversed at another speed: $x_t$ is the state of that schedule at the time $u(t)$."""

import jax.numpy as jnp

from .._base.arguments import checked
from .._base.checks import check_positive
from .._base.typing import Array, Times
from .base import AbstractSchedule, Singularities


class ResolutionShift(AbstractSchedule):
    r"""A schedule at the shifted time $u(t) = \frac{t}{k - (k - 1) t}$: for $k > 1$ more time near the noise end.

    In diffusion time $s = 1 - t$ this is the usual map $s \mapsto k s / (1 + (k - 1) s)$ (Esser et al. 2024, eq. 23);
    in this library's time, from noise to data, the same formula holds with $1 / k$ in place of $k$. For [`Linear`][]
    it is exactly a shift of the log-SNR by $-2 \log k$. For images $k = \sqrt{m / n}$, where $m$ is the number of
    pixels and $n$ the number of pixels of a resolution at which no shift is needed.

    To shift the training times or the time steps of a model without changing its path, use [`shift_time`][] instead.

    **Reference:** [@esser2024scaling].
    """

    schedule: AbstractSchedule
    shift: float

    def __init__(self, schedule: AbstractSchedule, shift: float):
        r"""**Arguments:**

        - `schedule`: the schedule to shift.
        - `shift`: $k$. Raises `ValueError` unless it is positive.
        """
        if not shift > 0:
            raise ValueError(f"shift must be positive; got {shift}.")
        self.schedule, self.shift = schedule, float(shift)

    def __check_init__(self) -> None:
        check_positive("shift", self.shift)

    @property
    def singularities(self) -> Singularities:
        return self.schedule.singularities

    def _speed(self, t: Times) -> Array:
        return self.shift / (self.shift + (1 - self.shift) * jnp.asarray(t)) ** 2

    def alpha(self, t: Times) -> Array:
        return self.schedule.alpha(shift_time(t, self.shift))

    def sigma(self, t: Times) -> Array:
        return self.schedule.sigma(shift_time(t, self.shift))

    def alpha_rate(self, t: Times) -> Array:
        return self.schedule.alpha_rate(shift_time(t, self.shift)) * self._speed(t)

    def sigma_rate(self, t: Times) -> Array:
        return self.schedule.sigma_rate(shift_time(t, self.shift)) * self._speed(t)

    def variance_rate(self, t: Times) -> Array:
        return self.schedule.variance_rate(shift_time(t, self.shift)) * self._speed(t)

    def log_snr(self, t: Times) -> Array:
        return self.schedule.log_snr(shift_time(t, self.shift))

    def time_at(self, log_snr: Times) -> Array:
        return shift_time(self.schedule.time_at(log_snr), 1 / self.shift)


@checked
def shift_time(t: Times, shift: float) -> Array:
    r"""$t / (k - (k - 1) t)$, which moves times towards the noise end at 0 for $k > 1$.

    **Arguments:**

    - `t`: times in [0, 1]. In diffusion time $s = 1 - t$ the map is $s \mapsto k s / (1 + (k - 1) s)$.
    - `shift`: $k$, positive. The map with $1 / k$ is the inverse.

    **Returns:** the shifted times, with the shape of `t`; 0 and 1 are fixed points.
    """
    check_positive("shift", shift)
    t = jnp.asarray(t)
    return t / (shift + (1 - shift) * t)
