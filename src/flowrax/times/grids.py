"""Grids of time steps derived from a schedule, for the argument `grid`."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from .._base.checks import check_count, check_instance, check_interval, check_positive
from .._base.typing import Array
from ..schedule import AbstractSchedule


def log_snr_grid(schedule: AbstractSchedule, num_steps: int, t_min: float = 0.0, t_max: float = 1.0) -> Array:
    r"""Equal steps in log-SNR, which suit exponential solvers.

    If the log-SNR is infinite at an end, the step at that end has the length of one of `n` equal steps in time, and the
    remaining steps are equal in log-SNR.

    **Arguments:**

    - `schedule`: the schedule of the model.
    - `num_steps`: the number of steps `n`. Raises `ValueError` below 1, plus one for each end at which the log-SNR is
        infinite.
    - `t_min`, `t_max`: the interval. Raises `ValueError` unless `0 <= t_min < t_max <= 1`.

    **Returns:** times `(n + 1,)`, increasing from `t_min` to `t_max`.
    """
    return _grid(schedule, num_steps, t_min, t_max, lambda low, high, u: low + u * (high - low))


def edm_grid(
    schedule: AbstractSchedule, num_steps: int, t_min: float = 0.0, t_max: float = 1.0, rho: float = 7.0
) -> Array:
    r"""Equal steps in $(\sigma / \alpha)^{1/\rho}$ (Karras et al. 2022, eq. 5).

    Ends at which the log-SNR is infinite are treated as in [`log_snr_grid`][].

    **Arguments:**

    - `schedule`: the schedule of the model.
    - `num_steps`: the number of steps `n`. Raises `ValueError` if there are too few, as in [`log_snr_grid`][].
    - `t_min`, `t_max`: the interval. Raises `ValueError` unless `0 <= t_min < t_max <= 1`.
    - `rho`: the exponent $\rho$; a larger value puts more steps at small noise. As it tends to infinity the steps
        become equal in log-SNR. Raises `ValueError` unless it is positive.

    **Returns:** times `(n + 1,)`, increasing from `t_min` to `t_max`.
    """
    check_positive("rho", rho)

    def space(low: np.ndarray, high: np.ndarray, u: np.ndarray) -> np.ndarray:
        first, last = np.exp(-low / (2 * rho)), np.exp(-high / (2 * rho))
        return -2 * rho * np.log(first + u * (last - first))

    return _grid(schedule, num_steps, t_min, t_max, space)


def _grid(
    schedule: AbstractSchedule,
    num_steps: int,
    t_min: float,
    t_max: float,
    space: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
) -> Array:
    check_instance("schedule", schedule, AbstractSchedule)
    check_interval(t_min, t_max)
    num_steps = check_count("num_steps", num_steps, None)
    singular = [t in (0.0, 1.0) and (t in schedule.singularities.log_snr) for t in (t_min, t_max)]
    if num_steps < 1 + sum(singular):
        raise ValueError(f"num_steps={num_steps} is too few; at least {1 + sum(singular)} are needed on this interval.")
    margin = (t_max - t_min) / num_steps
    ends = t_min + margin * singular[0], t_max - margin * singular[1]
    low, high = (np.asarray(schedule.log_snr(jnp.asarray(t)), np.float64) for t in ends)
    inner = space(low, high, np.linspace(0, 1, num_steps - sum(singular) + 1))
    inside = np.array(schedule.time_at(jnp.asarray(inner, float)))
    inside[0], inside[-1] = ends
    return jnp.asarray(np.concatenate([[t_min] * singular[0], inside, [t_max] * singular[1]]), float)
