"""Grids that are even in log-SNR, and what they are good for."""

import numpy as np
import pytest

import flowrax as frx
from flowrax.times import log_snr_grid
from laws import SCHEDULES


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
