r"""Grids that need no schedule, and what pads and differences them.

Every grid is `(n + 1,)`, increasing, both ends included: its first `n` entries are where the `n` steps start. A solve
wants strictly increasing times; repeated ones are for loops over steps of a user's own.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import check_interval
from .._typing import Array, Numbers


def linear_grid(num_steps: int, t_min: float = 0.0, t_max: float = 1.0) -> Array:
    """Equal steps in time; what `grid=num_steps` stands for.

    **Arguments:**

    - `num_steps`: `n`, at least 1.
    - `t_min`, `t_max`: the interval. Raises `ValueError` outside [0, 1].

    **Returns:** `(n + 1,)`, from `t_min` to `t_max`.
    """
    return _grid(np.linspace(0, 1, _check_steps(num_steps) + 1), t_min, t_max)


def power_grid(num_steps: int, exponent: float = 2.0, t_min: float = 0.0, t_max: float = 1.0) -> Array:
    r"""Times whose root $t^{1/p}$ is even: with $p > 1$ the steps are short near the noise, with $p < 1$ near the data.

    **Arguments:**

    - `num_steps`: `n`, at least 1.
    - `exponent`: $p$, positive, or `ValueError`.
    - `t_min`, `t_max`: the interval. Raises `ValueError` outside [0, 1].

    **Returns:** `(n + 1,)`, from `t_min` to `t_max`.
    """
    if not exponent > 0:
        raise ValueError(f"exponent must be positive; got {exponent}.")
    check_interval(t_min, t_max)
    roots = np.linspace(t_min ** (1 / exponent), t_max ** (1 / exponent), _check_steps(num_steps) + 1)
    return _exact_ends(roots**exponent, t_min, t_max)


def log_grid(num_steps: int, exponent: float = -2.0, t_min: float = 0.0, t_max: float = 1.0) -> Array:
    r"""Steps that shrink geometrically towards the data, the last $10^{p (1 - 1/n)}$ times the first.

    **Arguments:**

    - `num_steps`: `n`, at least 1.
    - `exponent`: $p$, negative, or `ValueError`.
    - `t_min`, `t_max`: the interval. Raises `ValueError` outside [0, 1].

    **Returns:** `(n + 1,)`, from `t_min` to `t_max`.
    """
    if not exponent < 0:
        raise ValueError(f"exponent must be negative; got {exponent}.")
    powers = exponent * np.log(10) * np.linspace(0, 1, _check_steps(num_steps) + 1)
    return _grid(np.expm1(powers) / np.expm1(powers[-1]), t_min, t_max)


def rate_grid(
    rate: Callable[[Array], Array],
    num_steps: int,
    t_min: float = 0.0,
    t_max: float = 1.0,
    num_points: int = 129,
) -> Array:
    r"""Steps over which $\int |r(t)|\, \mathrm{d}t$ grows by the same amount, the inverse of its distribution function.

    Where the rate changes its sign both parts count. A rate that is zero everywhere gives equal steps.

    **Arguments:**

    - `rate`: a scalar function of a scalar time; it is evaluated at all points at once, under `jax.vmap`.
    - `num_steps`: `n`, at least 1.
    - `t_min`, `t_max`: the interval. Raises `ValueError` outside [0, 1].
    - `num_points`: where the rate is evaluated: even, both ends included. Between them it is taken to be linear, so the
        times are accurate to second order in their distance.

    **Returns:** `(n + 1,)`, from `t_min` to `t_max`. Raises `ValueError` where the rate is NaN or infinite.
    """
    check_interval(t_min, t_max)
    times = np.linspace(t_min, t_max, num_points)
    values = np.abs(np.asarray(jax.vmap(rate)(jnp.asarray(times, float)), np.float64))
    if not np.all(np.isfinite(values)):
        where = times[~np.isfinite(values)][0]
        raise ValueError(f"rate is NaN or infinite at t={where:.4g}; narrow [t_min, t_max] to where it is not.")
    if not values.any():
        return linear_grid(num_steps, t_min, t_max)
    return _exact_ends(_inverse(times, values, np.linspace(0, 1, _check_steps(num_steps) + 1)), t_min, t_max)


def _inverse(times: np.ndarray, density: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Where the integral of a piecewise linear density reaches shares of its whole: exact within each piece."""
    width = np.diff(times)
    integral = np.concatenate([[0.0], np.cumsum(width * (density[1:] + density[:-1]) / 2)])
    wanted = levels * integral[-1]
    piece = np.clip(np.searchsorted(integral, wanted, side="right") - 1, 0, len(width) - 1)
    left, slope = density[piece], (density[piece + 1] - density[piece]) / width[piece]
    rest = wanted - integral[piece]
    # The root of left u + slope u^2 / 2 = rest, in the form that does not cancel.
    scale = left + np.sqrt(np.maximum(left**2 + 2 * slope * rest, 0))
    inside = np.divide(2 * rest, scale, out=np.zeros_like(rest), where=scale > 0)
    return times[piece] + np.clip(inside, 0, width[piece])


def pad_grid(grid: Numbers, padding: int = 0, dilation: int = 0) -> Array:
    """Repeats times: each start `dilation` times more, then the end `padding` times more.

    A repeated time is a step of length zero: `dilation` for correctors at a fixed time, `padding` for a last evaluation
    at the end. A grid of `n` steps becomes one of `n (dilation + 1) + padding`.

    **Arguments:**

    - `grid`: `(n + 1,)`.
    - `padding`, `dilation`: not negative, or `ValueError`.

    **Returns:** `(n (dilation + 1) + padding + 1,)`.
    """
    if padding < 0 or dilation < 0:
        raise ValueError(f"padding and dilation must not be negative; got {padding} and {dilation}.")
    grid = jnp.asarray(grid)
    return jnp.concatenate([jnp.repeat(grid[:-1], dilation + 1), jnp.repeat(grid[-1:], padding + 1)])


def discretize(grid: Numbers) -> Array:
    """The lengths of the steps.

    **Arguments:**

    - `grid`: `(n + 1,)`, increasing or, in a time that runs from data to noise, decreasing.

    **Returns:** `(n,)`, not negative.
    """
    return jnp.abs(jnp.diff(jnp.asarray(grid)))


def index_grid(num_steps: int, num_indices: int | None = None, padding: int = 0, dilation: int = 0) -> Array:
    """The indices of a chain in the order of generation, from the noisiest to the least noisy.

    Each step is worth `1 / num_steps` of the time. Flip it for an index that grows from noise to data.

    **Arguments:**

    - `num_steps`: how many indices are visited, evenly, both ends among them (one alone is the
        noisiest); all where it is `num_indices`.
    - `num_indices`: of the chain; `num_steps` without. Raises `ValueError` where there are fewer than `num_steps`.
    - `padding`, `dilation`: repeat the last one, and each one, so many times more.

    **Returns:** `(num_steps (dilation + 1) + padding,)` integers that decrease from `num_indices - 1`.
    """
    size = num_steps if num_indices is None else num_indices
    if not 1 <= num_steps <= size:
        raise ValueError(f"num_steps={num_steps} must lie between 1 and the number of indices, {size}.")
    even = np.round(np.linspace(size - 1, 0, num_steps)) if num_steps > 1 else np.array([size - 1])
    index = jnp.asarray(even.astype(np.int32))
    return jnp.pad(jnp.repeat(index, dilation + 1), (0, padding), mode="edge")


def _check_steps(num_steps: int) -> int:
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1; got {num_steps}.")
    return num_steps


def _grid(unit: np.ndarray, t_min: float, t_max: float) -> Array:
    check_interval(t_min, t_max)
    return _exact_ends(t_min + (t_max - t_min) * unit, t_min, t_max)


def _exact_ends(times: np.ndarray, t_min: float, t_max: float) -> Array:
    return jnp.asarray(np.concatenate([[t_min], times[1:-1], [t_max]]), float)
