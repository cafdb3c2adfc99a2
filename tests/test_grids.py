"""Grids that are even in something, and what they are good for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowrax as frx
from flowrax.times import (
    discretize,
    entropic_grid,
    entropy_rate,
    index_grid,
    linear_grid,
    log_grid,
    log_snr_grid,
    pad_grid,
    power_grid,
    rate_grid,
)
from laws import MORE_SCHEDULES, SCHEDULES as COMMON

SCHEDULES = COMMON | MORE_SCHEDULES


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_log_snr_grows_evenly(name, x64):
    schedule = SCHEDULES[name]
    times = log_snr_grid(schedule, 20, 0.01, 0.99)
    assert (times[0], times[-1], times.shape) == (0.01, 0.99, (21,))
    steps = np.diff(np.log((schedule.alpha(times) / schedule.sigma(times)) ** 2))
    assert np.allclose(steps, steps.mean(), rtol=1e-6)


@pytest.mark.accuracy
def test_a_narrow_law_is_reached_in_few_steps(key):
    """The variance of 4,000 numbers within five standard errors; by equal steps in time it is far off."""
    std = 0.05
    model = frx.oracle.Gaussian(np.ones(2), std**2 * np.eye(2)).model(frx.VariancePreserving())
    dynamics = frx.ReverseSDE(t_max=0.999)
    t_min, t_max = dynamics.interval(model)
    want = std**2 * float(model.schedule.alpha(t_max)) ** 2 + float(model.schedule.sigma(t_max)) ** 2

    def off(grid):
        x = frx.sample(model, key, 2000, dynamics=dynamics, grid=grid).x
        return abs(np.mean((np.asarray(x) - float(model.schedule.alpha(t_max))) ** 2) / want - 1)

    standard_error = (2 / 4000) ** 0.5
    assert off(log_snr_grid(model.schedule, 50, t_min, t_max)) <= 5 * standard_error
    assert off(50) >= 10 * standard_error


def test_grids_are_even_in_what_they_say(x64):
    """On a part of the interval, with its ends exactly."""
    ends, even = (0.04, 0.81), lambda x: np.allclose(np.diff(x), np.diff(x).mean(), rtol=1e-9)
    grids = {
        "linear": (linear_grid(9, *ends), lambda t: t),
        "power": (power_grid(9, 2.0, *ends), np.sqrt),
        "root": (power_grid(9, 0.5, *ends), np.square),
        # Steps that shrink geometrically: their logarithms are even.
        "log": (log_grid(9, -2.0, *ends), None),
        "rate": (rate_grid(lambda t: 1 + 2 * t, 9, *ends), lambda t: t + t**2),
    }
    for name, (grid, scale) in grids.items():
        assert (grid[0], grid[-1], grid.shape) == (*ends, (10,)), name
        assert even(np.log(discretize(grid)) if scale is None else scale(np.asarray(grid))), name
    assert float(discretize(grids["log"][0])[8] / discretize(grids["log"][0])[0]) == pytest.approx(10 ** (-2 * 8 / 9))


def test_a_rate_that_changes_its_sign_counts_on_both_sides(x64):
    grid = rate_grid(lambda t: jnp.cos(jnp.pi * t), 8, num_points=2001)
    assert np.allclose(np.abs(np.diff(np.sin(np.pi * grid))), 1 / 4, atol=1e-5)
    assert np.allclose(rate_grid(lambda t: 0 * t, 4), [0, 0.25, 0.5, 0.75, 1])


def test_rate_grids_are_of_second_order(x64):
    """In the distance of the points where the rate is evaluated."""

    def off(n):
        t = rate_grid(lambda t: 1 + 3 * t**2, 8, num_points=n + 1)
        return np.max(np.abs((t + t**3) / 2 - np.linspace(0, 1, 9)))

    assert abs(np.log(off(16) / off(64)) / np.log(4) - 2) <= 0.15


@pytest.mark.parametrize("name", ["linear", "vp", "cosine_snr"])
def test_entropic_steps_of_a_gaussian(name, key, x64):
    """Its entropy is half the logarithm of its variance at each time: it falls, then rises."""
    schedule, std = SCHEDULES[name], np.array([0.4, 0.6])
    model = frx.oracle.Gaussian(np.zeros(2), np.diag(std**2)).model(schedule)
    x0, x1 = jax.random.normal(key, (2, 3, 2), jnp.float64) * jnp.stack([jnp.ones(2), jnp.asarray(std)])[:, None]

    def velocity(t, x):
        return model.predict(t, x).velocity

    def entropy(t):
        variance = schedule.alpha(t) ** 2 * jnp.asarray(std) ** 2 + schedule.sigma(t) ** 2
        return jnp.sum(jnp.log(variance)) / 2

    t = jnp.linspace(0.05, 0.95, 5)
    rate = jax.jit(jax.vmap(entropy_rate(velocity, x0, x1, key, schedule)))(t)
    assert np.allclose(rate, jax.jit(jax.vmap(jax.grad(entropy)))(t), rtol=1e-9, atol=1e-12)
    grid = entropic_grid(velocity, x0, x1, key, 400, schedule=schedule, t_min=0.05, t_max=0.95, num_points=1001)
    steps = np.abs(np.diff(jax.jit(jax.vmap(entropy))(grid)))
    # All but the step that turns around are even.
    assert np.sum(np.abs(steps / np.median(steps) - 1) > 1e-3) <= 1


def test_padding_and_indices():
    assert pad_grid([0.0, 0.5, 1.0], padding=2, dilation=1).tolist() == [0, 0, 0.5, 0.5, 1, 1, 1]
    assert discretize(pad_grid([0.0, 0.5, 1.0], 1, 1)).tolist() == [0, 0.5, 0, 0.5, 0]
    assert index_grid(1, 1000).tolist() == [999]
    assert index_grid(3, padding=1, dilation=1).tolist() == [2, 2, 1, 1, 0, 0, 0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: linear_grid(0), "num_steps must be at least 1; got 0."),
        (lambda: linear_grid(3, 0.5, 0.5), "t_min=0.5 is not below t_max=0.5."),
        (lambda: power_grid(3, 0.0), "exponent must be positive; got 0.0."),
        (lambda: log_grid(3, 2.0), "exponent must be negative; got 2.0."),
        (lambda: pad_grid([0.0, 1.0], padding=-1), "padding must be at least 0; got -1."),
        (lambda: index_grid(5, 4), "num_steps=5 must lie between 1 and the number of indices, 4."),
        (
            lambda: rate_grid(lambda t: 1 / t, 3),
            "rate is NaN or infinite at t=0; narrow [t_min, t_max] to where it is finite.",
        ),
    ],
)
def test_impossible_grids_are_refused(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert str(error.value) == message
