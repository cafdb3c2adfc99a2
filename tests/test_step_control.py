"""Adaptive steps: noise of any resolution, steps that are forced over their tolerance, and rounding."""

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowrax as frx
from flowrax import dynamics as dyn
from flowrax._base.result import raise_if_failed
from flowrax.stepper.step_control import CheckedController, adapt
from laws import mixture


def gaussian(*deviations):
    return frx.oracle.Gaussian(jnp.zeros(len(deviations)), jnp.diag(jnp.asarray(deviations) ** 2)).model(frx.Linear())


@pytest.mark.accuracy
@pytest.mark.parametrize("coefficient", [dyn.RaisedSine(), dyn.SBDM()])
def test_a_thin_direction_is_sampled_to_the_tolerance(coefficient):
    """Standard deviations of 1 and 0.001, where noise at the end makes the drift 250,000 times steeper."""
    num = 200
    with pytest.warns(UserWarning, match="1 of 2 coordinates vary by less than 10 atol"):
        draws = frx.sample(gaussian(1.0, 1e-3), jax.random.key(0), num, dynamics=dyn.ReverseSDE(coefficient))
    assert abs(float(jnp.std(draws.x[:, 0])) - 1) <= 5 / np.sqrt(2 * num)
    assert float(jnp.max(jnp.abs(draws.x[:, 1]))) <= 5e-2


@pytest.mark.accuracy
def test_what_time_cannot_resolve_fails():
    """Data of standard deviation 1e-4 to a tolerance of 1e-5 need steps that float32 does not have."""
    model, key = gaussian(1e-4), jax.random.key(0)
    options = {"dynamics": dyn.ReverseSDE(dyn.Constant(0.01)), "rtol": 1e-5, "atol": 1e-5, "max_steps": 8_000}
    draws = frx.sample(model, key, 4, throw=False, **options)
    forced, good = (np.asarray(draws.result == code) for code in (frx.RESULTS.dt_min_reached, frx.RESULTS.successful))
    assert forced.any() and np.isnan(draws.x[~good]).all()
    assert np.all(np.abs(draws.x[good]) <= 6e-4)


@pytest.mark.parametrize("adjoint", [None, dfx.RecursiveCheckpointAdjoint()])
@pytest.mark.parametrize("dynamics", [dyn.ProbabilityFlow(), dyn.ReverseSDE()])
def test_a_controller_of_the_user_forces_nothing_in_silence(dynamics, adjoint):
    controller = dfx.PIDController(rtol=1e-6, atol=1e-6, dtmin=0.2)
    options = {"dynamics": dynamics, "stepsize_controller": controller, "adjoint": adjoint}
    draws = frx.sample(gaussian(0.1, 0.1), jax.random.key(0), 4, throw=False, **options)
    assert np.asarray(draws.result == frx.RESULTS.dt_min_reached).all()
    assert np.isnan(draws.x).all()
    with pytest.raises(frx.SolveError, match="the error of the smallest possible step, or of dtmin, exceeded"):
        raise_if_failed("sample", draws, draws.result, 4096)


@pytest.mark.accuracy
def test_the_number_of_lanes_changes_rounding_only():
    model = mixture(2, 2, "float32", seed=0).model(frx.Linear())
    draws = [frx.sample(model, jax.random.key(7), 30, dynamics=dyn.ReverseSDE(), lanes=lanes) for lanes in (None, 1, 3)]
    for other in draws[1:]:
        assert np.array_equal(draws[0].stats.num_steps, other.stats.num_steps)
        assert float(jnp.max(jnp.abs(draws[0].x - other.x))) <= 1e-3


def test_a_rejected_step_shrinks_close_to_the_end():
    """Within 100 roundings of the end too, where an accepted step is stretched to reach it."""
    controller = dfx.PIDController(rtol=1e-3, atol=1e-3)
    end, one = jnp.float32(1.0), jnp.ones(1, jnp.float32)
    start, stop = end - 2.0**-18, end
    _, state = controller.init(None, start, end, one, 0.1, None, None, 2.0)
    for _ in range(3):
        adapted = adapt(
            controller,
            (jnp.float32(0), end),
            (start, stop),
            (one, one),
            None,
            50 * one,
            2.0,
            state,
            frx.RESULTS.successful,
        )
        assert not adapted.keep and adapted.t1 - start <= 0.5 * (stop - start)
        stop, state = adapted.t1, adapted.controller_state


def test_step_sizes_are_powers_of_the_fourth_root_of_two(x64):
    controller = CheckedController(dfx.PIDController(rtol=1e-3, atol=1e-3, dtmin=2.0**-20), jnp.float64(1.0))
    one = jnp.ones(1)
    t1, state = controller.init(None, 0.0, 1.0, one, 0.01, None, None, 2.0)
    sizes = [t1]
    for error in (1e-4, 3e-3, 5e-4, 1e-2):
        _, start, stop, _, state, _ = controller.adapt_step_size(0.0, t1, one, one, None, error * one, 2.0, state)
        sizes.append(stop - start)
    octaves = 4 * np.log2(np.asarray(sizes, float))
    assert np.allclose(octaves, np.round(octaves), atol=1e-10)
