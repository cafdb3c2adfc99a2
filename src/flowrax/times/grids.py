r"""Grids of time steps, and functions that pad and difference grids.

Every grid has shape `(n + 1,)` and increases, with both ends included: its first `n` entries are the start times of the
`n` steps. A solve needs strictly increasing times; repeated times are meant for user-written loops over the steps.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from .._base import random
from .._base.arguments import checked
from .._base.arrays import as_real
from .._base.checks import check_count, check_interval, check_number, check_positive, check_shape
from .._base.rows import check_some
from .._base.typing import Array, Batch, Event, KeyArray, Numbers, Scalar
from ..schedule import AbstractSchedule, Linear


@checked
def linear_grid(num_steps: int, t_min: float = 0.0, t_max: float = 1.0) -> Array:
    """Equal steps in time, the grid that `grid=num_steps` stands for.

    **Arguments:**

    - `num_steps`: the number of steps `n`. Raises `ValueError` below 1.
    - `t_min`, `t_max`: the interval. Raises `ValueError` unless `0 <= t_min < t_max <= 1`.

    **Returns:** times `(n + 1,)`, from `t_min` to `t_max`.
    """
    return _on_interval(np.linspace(0, 1, _check_steps(num_steps) + 1), t_min, t_max)


@checked
def power_grid(num_steps: int, exponent: float = 2.0, t_min: float = 0.0, t_max: float = 1.0) -> Array:
    r"""Equal steps in $t^{1/p}$. For $p > 1$ they are short near the noise end; for $p < 1$ near the data end.

    **Arguments:**

    - `num_steps`, `t_min`, `t_max`: as in [`linear_grid`][].
    - `exponent`: $p$. Raises `ValueError` unless it is positive.

    **Returns:** times `(n + 1,)`, from `t_min` to `t_max`.
    """
    check_positive("exponent", exponent)
    check_interval(t_min, t_max)
    roots = np.linspace(t_min ** (1 / exponent), t_max ** (1 / exponent), _check_steps(num_steps) + 1)
    return _exact_ends(roots**exponent, t_min, t_max)


@checked
def log_grid(num_steps: int, exponent: float = -2.0, t_min: float = 0.0, t_max: float = 1.0) -> Array:
    r"""Steps that shrink geometrically towards the data end: the last step is $10^{p (1 - 1/n)}$ times the first.

    **Arguments:**

    - `num_steps`, `t_min`, `t_max`: as in [`linear_grid`][].
    - `exponent`: $p$. Raises `ValueError` unless it is negative.

    **Returns:** times `(n + 1,)`, from `t_min` to `t_max`.
    """
    check_number("exponent", exponent)
    if not exponent < 0:
        raise ValueError(f"exponent must be negative; got {exponent}.")
    powers = exponent * np.log(10) * np.linspace(0, 1, _check_steps(num_steps) + 1)
    return _on_interval(np.expm1(powers) / np.expm1(powers[-1]), t_min, t_max)


@checked
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
    return _snr_grid(schedule, num_steps, t_min, t_max, lambda low, high, u: low + u * (high - low))


@checked
def edm_grid(
    schedule: AbstractSchedule, num_steps: int, t_min: float = 0.0, t_max: float = 1.0, rho: float = 7.0
) -> Array:
    r"""Equal steps in $(\sigma / \alpha)^{1/\rho}$ (Karras et al. 2022, eq. 5).

    Ends at which the log-SNR is infinite are treated as in [`log_snr_grid`][].

    **Arguments:**

    - `schedule`, `num_steps`, `t_min`, `t_max`: as in [`log_snr_grid`][].
    - `rho`: the exponent $\rho$; a larger value puts more steps at small noise. As it tends to infinity the steps
        become equal in log-SNR. Raises `ValueError` unless it is positive.

    **Returns:** times `(n + 1,)`, increasing from `t_min` to `t_max`.
    """
    check_positive("rho", rho)

    def space(low: np.ndarray, high: np.ndarray, u: np.ndarray) -> np.ndarray:
        first, last = np.exp(-low / (2 * rho)), np.exp(-high / (2 * rho))
        return -2 * rho * np.log(first + u * (last - first))

    return _snr_grid(schedule, num_steps, t_min, t_max, space)


def _snr_grid(
    schedule: AbstractSchedule,
    num_steps: int,
    t_min: float,
    t_max: float,
    space: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
) -> Array:
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


@checked
def rate_grid(
    rate: Callable[[Array], Array],
    num_steps: int,
    t_min: float = 0.0,
    t_max: float = 1.0,
    num_points: int = 129,
) -> Array:
    r"""Steps over which $\int |r(t)|\, \mathrm{d}t$ grows by equal amounts: quantiles of the density $\propto |r|$.

    A rate that is zero everywhere gives equal steps in time.

    **Arguments:**

    - `rate`: the rate $r$, a scalar function of a scalar time. It is evaluated at all points at once by `jax.vmap`.
    - `num_steps`, `t_min`, `t_max`: as in [`linear_grid`][].
    - `num_points`: the number of evenly spaced times, both ends included, at which the rate is evaluated. The rate is
        interpolated linearly, so the grid is accurate to second order in the spacing.

    **Returns:** times `(n + 1,)`, from `t_min` to `t_max`. Raises `ValueError` if the rate is NaN or infinite anywhere.
    """
    check_interval(t_min, t_max)
    times = np.linspace(t_min, t_max, check_count("num_points", num_points, 2))
    values = np.abs(np.asarray(jax.vmap(rate)(jnp.asarray(times, float)), np.float64))
    if not np.all(np.isfinite(values)):
        where = times[~np.isfinite(values)][0]
        raise ValueError(f"rate is NaN or infinite at t={where:.4g}; narrow [t_min, t_max] to where it is finite.")
    if not values.any():
        return linear_grid(num_steps, t_min, t_max)
    return _exact_ends(_inverse(times, values, np.linspace(0, 1, _check_steps(num_steps) + 1)), t_min, t_max)


def _inverse(times: np.ndarray, density: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """The quantiles `levels` of a piecewise linear density, exact within each piece."""
    width = np.diff(times)
    integral = np.concatenate([[0.0], np.cumsum(width * (density[1:] + density[:-1]) / 2)])
    wanted = levels * integral[-1]
    piece = np.clip(np.searchsorted(integral, wanted, side="right") - 1, 0, len(width) - 1)
    left, slope = density[piece], (density[piece + 1] - density[piece]) / width[piece]
    rest = wanted - integral[piece]
    # The root of left u + slope u^2 / 2 = rest, in the form without cancellation.
    scale = left + np.sqrt(np.maximum(left**2 + 2 * slope * rest, 0))
    inside = np.divide(2 * rest, scale, out=np.zeros_like(rest), where=scale > 0)
    return times[piece] + np.clip(inside, 0, width[piece])


@checked
def entropy_rate(
    velocity: Callable[[Scalar, Event], Event],
    x0: Batch,
    x1: Batch,
    key: KeyArray,
    schedule: AbstractSchedule | None = None,
) -> Callable[[Scalar], Array]:
    r"""A Monte Carlo estimate of the rate of change of the marginal entropy, as a function of time.

    Along a flow the rate is $\dot H = \mathbb{E}[\nabla \cdot v(t, x_t)]$ (the continuity equation, integrated by
    parts).

    **Arguments:**

    - `velocity`: `velocity(t, x)` for one event, for example `lambda t, x: model.predict(t, x).velocity`.
    - `x0`, `x1`: draws of noise and of data, `(n, *event)`, from which events on the path are computed.
    - `key`: random key for the Hutchinson estimator, which uses one Rademacher probe per draw, the same at all times.
    - `schedule`: the schedule of the path. Default: `Linear()`.

    **Returns:** a function from a scalar time to the rate in nats per unit of time.
    """
    path = Linear() if schedule is None else schedule
    x0, x1 = jnp.asarray(as_real("x0", x0)), jnp.asarray(as_real("x1", x1))
    check_shape("x1", x1.shape, x0.shape)
    check_some("x0", x0.size)
    probes = random.rademacher(key, x0.shape, x0.dtype)

    def rate(t: Scalar) -> Array:
        alpha, sigma = path.alpha(t).astype(x0.dtype), path.sigma(t).astype(x0.dtype)

        def divergence(x0: Event, x1: Event, probe: Event) -> Array:
            _, change = jax.jvp(lambda x: velocity(t, x), (alpha * x1 + sigma * x0,), (probe,))
            return jnp.sum(probe * change)

        return jnp.mean(jax.vmap(divergence)(x0, x1, probes))

    return rate


@checked
def entropic_grid(
    velocity: Callable[[Scalar, Event], Event],
    x0: Batch,
    x1: Batch,
    key: KeyArray,
    num_steps: int,
    *,
    schedule: AbstractSchedule | None = None,
    t_min: float = 0.0,
    t_max: float = 1.0,
    num_points: int = 129,
) -> Array:
    """A grid of times between which the entropy changes by equal amounts, up or down.

    The steps are short where the flow compresses or expands most.

    **Arguments:**

    - `velocity`, `x0`, `x1`, `key`, `schedule`: as in [`entropy_rate`][].
    - `num_steps`, `t_min`, `t_max`, `num_points`: as in [`rate_grid`][].

    **Returns:** times `(num_steps + 1,)`, from `t_min` to `t_max`.

    **Raises:** `ValueError` as in [`rate_grid`][].
    """
    return rate_grid(entropy_rate(velocity, x0, x1, key, schedule), num_steps, t_min, t_max, num_points)


@checked
def pad_grid(grid: Numbers, padding: int = 0, dilation: int = 0) -> Array:
    """Repeats times of a grid: each start time `dilation` more times, and the end `padding` more times.

    A repeated time is a step of length zero: use `dilation` for corrector steps at a fixed time, and `padding` for a
    final evaluation at the end. A grid of `n` steps becomes a grid of `n (dilation + 1) + padding` steps.

    **Arguments:**

    - `grid`: times, `(n + 1,)`.
    - `padding`, `dilation`: the numbers of repetitions. Raises `ValueError` if either is negative.

    **Returns:** times, `(n (dilation + 1) + padding + 1,)`.
    """
    padding, dilation = check_count("padding", padding, 0), check_count("dilation", dilation, 0)
    grid = _times(grid)
    return jnp.concatenate([jnp.repeat(grid[:-1], dilation + 1), jnp.repeat(grid[-1:], padding + 1)])


@checked
def discretize(grid: Numbers) -> Array:
    """The lengths of the steps of a grid.

    **Arguments:**

    - `grid`: times, `(n + 1,)`, increasing, or decreasing in a time that runs from data to noise.

    **Returns:** the absolute differences of successive times, `(n,)`.
    """
    return jnp.abs(jnp.diff(_times(grid)))


@checked
def index_grid(num_steps: int, num_indices: int | None = None, padding: int = 0, dilation: int = 0) -> Array:
    """The indices of a chain in the order of generation, from the noisiest to the least noisy.

    Each step covers `1 / num_steps` of the time interval. Reverse the result for an index that grows towards the data.

    **Arguments:**

    - `num_steps`: the number of visited indices. They are evenly spaced and include both ends; a single one is the
        noisiest.
    - `num_indices`: the number of indices of the chain. Default: `num_steps`, so that all are visited. Raises
        `ValueError` unless `1 <= num_steps <= num_indices`.
    - `padding`, `dilation`: repeat the last index `padding` more times and each index `dilation` more times.

    **Returns:** integers `(num_steps (dilation + 1) + padding,)` that decrease from `num_indices - 1`.
    """
    num_steps = check_count("num_steps", num_steps, None)
    size = num_steps if num_indices is None else check_count("num_indices", num_indices)
    padding, dilation = check_count("padding", padding, 0), check_count("dilation", dilation, 0)
    if not 1 <= num_steps <= size:
        raise ValueError(f"num_steps={num_steps} must lie between 1 and the number of indices, {size}.")
    index = jnp.asarray(np.round(np.linspace(size - 1, 0, num_steps)).astype(np.int32))
    return jnp.pad(jnp.repeat(index, dilation + 1), (0, padding), mode="edge")


def _check_steps(num_steps: int) -> int:
    return check_count("num_steps", num_steps)


def _times(grid: Numbers) -> Array:
    times = jnp.asarray(as_real("grid", grid))
    if times.ndim != 1 or not times.size:
        raise ValueError(f"grid has shape {times.shape} but (n + 1,) is expected.")
    check_number("grid", times)
    return times


def _on_interval(unit: np.ndarray, t_min: float, t_max: float) -> Array:
    check_interval(t_min, t_max)
    return _exact_ends(t_min + (t_max - t_min) * unit, t_min, t_max)


def _exact_ends(times: np.ndarray, t_min: float, t_max: float) -> Array:
    return jnp.asarray(np.concatenate([[t_min], times[1:-1], [t_max]]), float)
