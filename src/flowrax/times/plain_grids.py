r"""Grids of times that do not depend on a schedule, and functions that pad and difference grids.

Every grid has shape `(n + 1,)` and increases, with both ends included: its first `n` entries are the start times of the
`n` steps. A solve needs strictly increasing times; repeated times are meant for user-written loops over the steps.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from .._base.checks import check_count, check_interval, check_number, check_positive
from .._base.typing import Array, Numbers


def linear_grid(num_steps: int, t_min: float = 0.0, t_max: float = 1.0) -> Array:
    """Equal steps in time, the grid that `grid=num_steps` stands for.

    **Arguments:**

    - `num_steps`: the number of steps `n`. Raises `ValueError` below 1.
    - `t_min`, `t_max`: the interval. Raises `ValueError` unless `0 <= t_min < t_max <= 1`.

    **Returns:** times `(n + 1,)`, from `t_min` to `t_max`.
    """
    return _grid(np.linspace(0, 1, _check_steps(num_steps) + 1), t_min, t_max)


def power_grid(num_steps: int, exponent: float = 2.0, t_min: float = 0.0, t_max: float = 1.0) -> Array:
    r"""Equal steps in $t^{1/p}$. For $p > 1$ they are short near the noise end; for $p < 1$ near the data end.

    **Arguments:**

    - `num_steps`: the number of steps `n`. Raises `ValueError` below 1.
    - `exponent`: $p$. Raises `ValueError` unless it is positive.
    - `t_min`, `t_max`: the interval. Raises `ValueError` unless `0 <= t_min < t_max <= 1`.

    **Returns:** times `(n + 1,)`, from `t_min` to `t_max`.
    """
    check_positive("exponent", exponent)
    check_interval(t_min, t_max)
    roots = np.linspace(t_min ** (1 / exponent), t_max ** (1 / exponent), _check_steps(num_steps) + 1)
    return _exact_ends(roots**exponent, t_min, t_max)


def log_grid(num_steps: int, exponent: float = -2.0, t_min: float = 0.0, t_max: float = 1.0) -> Array:
    r"""Steps that shrink geometrically towards the data end: the last step is $10^{p (1 - 1/n)}$ times the first.

    **Arguments:**

    - `num_steps`: the number of steps `n`. Raises `ValueError` below 1.
    - `exponent`: $p$. Raises `ValueError` unless it is negative.
    - `t_min`, `t_max`: the interval. Raises `ValueError` unless `0 <= t_min < t_max <= 1`.

    **Returns:** times `(n + 1,)`, from `t_min` to `t_max`.
    """
    if not exponent < 0:
        raise ValueError(f"exponent must be negative; got {exponent}.")
    check_number("exponent", exponent)
    powers = exponent * np.log(10) * np.linspace(0, 1, _check_steps(num_steps) + 1)
    return _grid(np.expm1(powers) / np.expm1(powers[-1]), t_min, t_max)


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
    - `num_steps`: the number of steps `n`. Raises `ValueError` below 1.
    - `t_min`, `t_max`: the interval. Raises `ValueError` unless `0 <= t_min < t_max <= 1`.
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


def pad_grid(grid: Numbers, padding: int = 0, dilation: int = 0) -> Array:
    """Repeats times of a grid: each start time `dilation` more times, and the end `padding` more times.

    A repeated time is a step of length zero: use `dilation` for corrector steps at a fixed time, and `padding` for a
    final evaluation at the end. A grid of `n` steps becomes a grid of `n (dilation + 1) + padding` steps.

    **Arguments:**

    - `grid`: times, `(n + 1,)`.
    - `padding`, `dilation`: the numbers of repetitions. Raises `ValueError` if either is negative.

    **Returns:** times, `(n (dilation + 1) + padding + 1,)`.
    """
    padding, dilation = check_count("padding", padding, None), check_count("dilation", dilation, None)
    if padding < 0 or dilation < 0:
        raise ValueError(f"padding and dilation must not be negative; got {padding} and {dilation}.")
    grid = jnp.asarray(grid)
    return jnp.concatenate([jnp.repeat(grid[:-1], dilation + 1), jnp.repeat(grid[-1:], padding + 1)])


def discretize(grid: Numbers) -> Array:
    """The lengths of the steps of a grid.

    **Arguments:**

    - `grid`: times, `(n + 1,)`, increasing, or decreasing in a time that runs from data to noise.

    **Returns:** the absolute differences of successive times, `(n,)`.
    """
    return jnp.abs(jnp.diff(jnp.asarray(grid)))


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
    even = np.round(np.linspace(size - 1, 0, num_steps)) if num_steps > 1 else np.array([size - 1])
    index = jnp.asarray(even.astype(np.int32))
    return jnp.pad(jnp.repeat(index, dilation + 1), (0, padding), mode="edge")


def _check_steps(num_steps: int) -> int:
    return check_count("num_steps", num_steps)


def _grid(unit: np.ndarray, t_min: float, t_max: float) -> Array:
    check_interval(t_min, t_max)
    return _exact_ends(t_min + (t_max - t_min) * unit, t_min, t_max)


def _exact_ends(times: np.ndarray, t_min: float, t_max: float) -> Array:
    return jnp.asarray(np.concatenate([[t_min], times[1:-1], [t_max]]), float)
