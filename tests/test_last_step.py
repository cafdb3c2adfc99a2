"""Last steps and coefficients of users: closed forms of a point and of Gaussians."""

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowrax as frx
from flowrax import dynamics as dyn

T = np.float64(0.96)


@pytest.fixture(scope="module")
def point():
    """All data at one point D under linear scales: the flow is straight, the score is (t D - x) / (1 - t)^2."""
    with jax.enable_x64(True):
        return frx.oracle.Gaussian(np.array([1.5, -0.5]), np.zeros((2, 2))).model(frx.Linear())


def test_last_steps_to_a_point(point, x64):
    data, x = jnp.array([1.5, -0.5]), jnp.array([1.3, -0.7])
    # The flow is straight, so Euler's step and the expectation arrive. With w = (1 - t) / t the mean is 2 D - x / t.
    for last in (frx.Tweedie(), frx.EulerStep(), frx.MeanStep(frx.ReverseSDE(dyn.Constant(0.0)))):
        np.testing.assert_allclose(last(point, T, x, None), data, rtol=1e-10)
    np.testing.assert_allclose(frx.MeanStep(frx.ReverseSDE())(point, T, x, None), 2 * data - x / 0.96, rtol=1e-10)


def test_size_of_a_last_step(point, x64):
    x = jnp.array([1.3, -0.7])
    half = frx.EulerStep(0.02)(point, T, x, None)
    np.testing.assert_allclose(half, (x + jnp.array([1.5, -0.5])) / 2, rtol=1e-10)


@pytest.mark.accuracy
def test_last_step_of_sample(x64):
    """After a solve that stops at 0.96, what the step makes of its end; it is one evaluation more."""
    model = frx.oracle.Gaussian(np.array([0.5]), np.array([[0.3]])).model(frx.Linear())
    sde = frx.ReverseSDE(dyn.LinearDecay(), t_max=0.96)
    options = dict(x0=np.array([[0.4], [-1.0]]), dynamics=sde, solver=dfx.Euler(), grid=5)
    end = frx.sample(model, jax.random.key(0), 2, **options).x
    answer = frx.sample(model, jax.random.key(0), 2, last_step=frx.MeanStep(sde), **options)
    got = answer.x
    np.testing.assert_array_equal(answer.stats.num_evaluations, 5 + 1)
    # The law at t is N(m t, v) with v = 0.3 t^2 + (1 - t)^2, so score and velocity are affine.
    t, v = 0.96, 0.3 * 0.96**2 + 0.04**2
    score = (0.5 * t - end) / v
    velocity = 0.5 - (0.3 * t - (1 - t)) * score
    np.testing.assert_allclose(got, end + 0.04 * (velocity + 0.04 * score), rtol=1e-10)


@pytest.mark.accuracy
def test_a_function_of_time_is_a_diffusion():
    model = frx.oracle.Gaussian(np.float32([0.5]), np.float32([[0.3]])).model(frx.Linear())
    options = dict(solver=dfx.Euler(), grid=4)
    by_name = frx.ReverseSDE(dyn.QuadraticDecay(2.0))
    by_function = frx.ReverseSDE(lambda t: 2 * (1 - t) ** 2)
    a, b = (frx.sample(model, jax.random.key(0), 3, dynamics=d, **options).x for d in (by_name, by_function))
    np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize(("w", "schedule"), [(dyn.Odds, frx.Linear()), (dyn.Cotangent, frx.Cosine())])
def test_without_offset_they_are_the_reverse_of_the_noising(w, schedule, x64):
    """And infinite at the noise, where the dynamics stops short; with it they are finite."""
    t = jnp.linspace(0.01, 1, 9)
    np.testing.assert_allclose(w(offset=0.0)(schedule, t), dyn.SBDM()(schedule, t), rtol=1e-12, atol=1e-15)
    model = frx.oracle.Gaussian(np.zeros(1), np.eye(1)).model(schedule)
    assert frx.ReverseSDE(w(offset=0.0)).interval(model)[0] == frx.ReverseSDE().interval(model)[0] > 0
    assert frx.ReverseSDE(dyn.Scaled(w(offset=0.0), 0.5)).interval(model)[0] > 0
    for finite in (w(), dyn.Capped(w(offset=0.0), 9.0)):
        assert frx.ReverseSDE(finite).interval(model)[0] == 0


def test_sigmoid_power_far_from_its_centre(x64):
    """Small values go as w^p, large ones are divided by p."""
    w = lambda value: dyn.SigmoidPower(dyn.Constant(value), 2.0, 0.0)(frx.Linear(), jnp.asarray(0.5))  # noqa: E731
    np.testing.assert_allclose(w(1e-8), 1e-16, rtol=1e-6)
    np.testing.assert_allclose(w(1e8), 5e7, rtol=1e-6)


def test_stochastic_flow_goes_up_to_the_data():
    """A network has no score at the data; from `t_ode` on none is needed."""
    model = frx.Model(lambda t, x, c: -x, frx.Linear(), shape=(1,), dtype=np.float32)
    assert frx.ReverseSDE(dyn.Odds()).interval(model)[1] < 1
    sde = frx.StochasticFlow(dyn.Odds(), t_ode=0.99)
    assert sde.interval(model)[1] == 1.0
    x = frx.sample(model, jax.random.key(0), 2, dynamics=sde, solver=dfx.Heun(), grid=10).x
    assert np.all(np.isfinite(x))


def test_a_last_step_that_fails_is_no_sample(x64):
    network = lambda t, x, c: jnp.where((t > 0.95) & (x > 0), jnp.inf, -x)  # noqa: E731
    model = frx.Model(network, frx.Linear(), shape=(2,), dtype="float64")
    options = dict(dynamics=frx.StochasticFlow(dyn.Constant(0.0), t_max=0.96), solver=dfx.Euler(), grid=4)
    options |= dict(last_step=frx.EulerStep(), x0=np.array([[1.0, -1.0], [-1.0, -1.0]]))
    with pytest.raises(frx.SolveError, match="^sample: 1 of 2 solves failed: the state became NaN or infinite"):
        frx.sample(model, jax.random.key(0), 2, **options)
    x = frx.sample(model, jax.random.key(0), 2, **options, throw=False).x
    np.testing.assert_array_equal(np.isnan(x), [[True, True], [False, False]])


@pytest.mark.accuracy
@pytest.mark.parametrize("dynamics", [dyn.Langevin(0.6, 2.0), dyn.UnderdampedLangevin(0.6, 2.0)])
def test_last_step_after_langevin_is_at_its_time(dynamics, x64):
    model = frx.oracle.Gaussian(np.array([0.5]), np.array([[0.3]])).model(frx.Linear())
    options = dict(dynamics=dynamics, grid=5)
    end = frx.sample(model, jax.random.key(0), 2, **options).x
    got = frx.sample(model, jax.random.key(0), 2, last_step=frx.Tweedie(), **options).x
    # E[x1 | x] of the joint Gaussian of x1 and x = 0.6 x1 + 0.4 x0.
    np.testing.assert_allclose(got, 0.5 + 0.6 * 0.3 / (0.36 * 0.3 + 0.16) * (end - 0.3), rtol=1e-10)


def test_a_last_step_stays_within_time(point, x64):
    with pytest.raises(ValueError, match=r"^A last step of 0\.1 from t=0\.96 goes beyond the data at t=1\.$"):
        frx.sample(
            point, jax.random.key(0), 1, dynamics=frx.ReverseSDE(t_max=0.96), grid=4, last_step=frx.EulerStep(0.1)
        )
