"""`sample` on oracles: the density along a solve, the law of the draws, and the ways to step and to save."""

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowrax as frx
from laws import SCHEDULES, assert_moments, mixture, moments

# dtype, tolerance, and the error allowed in the worst log-density.
BARS = {"float64": (1e-7, 2e-5), "float32": (1e-5, 2e-2)}


def density_error(num, size, n, name, precision):
    """The worst error of `with_log_prob` against the marginal's closed form at `t_max`, by an exact source."""
    tolerance, _ = BARS[precision]
    oracle = mixture(num, size, precision)
    model = oracle.model(SCHEDULES[name])
    samples = frx.sample(model, jax.random.key(1), n, with_log_prob=True, rtol=tolerance, atol=tolerance)
    # The closed form in double precision, so that its own rounding is not counted.
    with jax.enable_x64(True):
        want = marginal_log_prob(double(oracle), model.schedule, np.asarray(samples.x, np.float64))
    assert samples.log_prob is not None
    return np.max(np.abs(np.asarray(samples.log_prob, np.float64) - np.asarray(want))), samples


@eqx.filter_jit
def marginal_log_prob(oracle, schedule, x):
    """At the end of the path."""
    return oracle.marginal_log_prob(schedule, 1.0, x)


def double(oracle):
    """The same law in float64: the leaves are those of the single-precision one."""
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, np.float64)), oracle)


@pytest.mark.accuracy
@pytest.mark.parametrize(
    ("name", "precision"),
    [
        *((name, "float64") for name in ("linear", "vp", "edm", "ve")),
        *((name, "float32") for name in ("conditional OT", "cosine", "subvp", "edm")),
    ],
)
def test_density_along_the_flow(name, precision):
    """The other precision of each schedule is that of `log_prob`, which solves the same equation from the other end."""
    with jax.enable_x64(precision == "float64"):
        error, samples = density_error(25, 2, 250, name, precision)
    assert samples.x.dtype == samples.log_prob.dtype == np.dtype(precision)
    assert error <= BARS[precision][1]
    # Every sample is stepped on its own, and in a few dozen steps.
    steps = np.asarray(samples.stats.num_steps)
    assert steps.min() < steps.max() < 250


@pytest.mark.accuracy
@pytest.mark.parametrize(("name", "precision"), [("edm", "float64"), ("vp", "float32")])
def test_density_along_the_flow_in_16_dimensions(name, precision):
    """The other schedules are those of `log_prob`; seen are 2.8e-6 and 1.0e-3."""
    with jax.enable_x64(precision == "float64"):
        error, _ = density_error(5, 16, 50, name, precision)
    assert error <= {"float64": 1e-5, "float32": 4e-3}[precision]


@pytest.mark.accuracy
@pytest.mark.parametrize("name", SCHEDULES)
def test_draws_have_the_moments_of_the_law(name):
    """By the ordinary adaptive solve, 5 standard errors, against the closed form at `t_max`."""
    model, n = mixture(25, 2, "float32").model(SCHEDULES[name]), 4000
    mean, second = moments(model.oracle)
    sigma = float(model.schedule.sigma(1.0))
    assert_moments(frx.sample(model, jax.random.key(2), n).x, mean, second + sigma**2 * np.eye(2))


@pytest.fixture(scope="module")
def gaussian():
    with jax.enable_x64(True):
        covariance = np.array([[1.0, 0.6], [0.6, 0.5]])
        return frx.oracle.Gaussian(np.array([0.5, -1.0]), covariance).model(frx.Linear())


@pytest.mark.parametrize("solver", [dfx.Dopri5(), dfx.Tsit5(), dfx.Heun(), dfx.ReversibleHeun()])
def test_tolerance_is_kept_by_adaptive_solvers(solver, gaussian, x64):
    x0 = jax.random.normal(jax.random.key(0), (20, 2))
    samples = frx.sample(gaussian, jax.random.key(0), 20, x0=x0, solver=solver, rtol=1e-6, atol=1e-6)
    want = gaussian.oracle.flow(gaussian.schedule, 0.0, 1.0, x0)
    assert np.max(np.abs(samples.x - want)) <= 1e-4
    assert np.all(samples.stats.num_rejected < samples.stats.num_steps)


def test_saveat_gives_the_trajectory(gaussian, x64):
    """The states at asked times are those of the closed-form flow."""
    ts = jnp.asarray([0.0, 0.25, 0.9, 1.0])
    x0 = jax.random.normal(jax.random.key(0), (6, 2))
    samples = frx.sample(
        gaussian, jax.random.key(0), 6, x0=x0, saveat=dfx.SaveAt(ts=ts), rtol=1e-8, atol=1e-8, with_log_prob=True
    )
    assert samples.trajectory is not None and samples.times is not None
    assert np.array_equal(samples.times, np.broadcast_to(ts, (6, 4)))
    for k, t in enumerate(ts):
        want = gaussian.oracle.flow(gaussian.schedule, 0.0, t, x0)
        assert np.allclose(samples.trajectory[:, k], want, rtol=0, atol=1e-6)


def test_times_of_a_grid_are_the_steps(gaussian, x64):
    """Two Euler steps by hand."""
    times = np.array([0.0, 0.3, 1.0])
    x0 = jax.random.normal(jax.random.key(0), (3, 2))
    samples = frx.sample(gaussian, jax.random.key(0), 3, x0=x0, solver=dfx.Euler(), grid=times)
    velocity = jax.vmap(lambda t, x: gaussian.predict(t, x).velocity, (None, 0))
    x = x0 + 0.3 * velocity(0.0, x0)
    x = x + 0.7 * velocity(0.3, x)
    assert np.allclose(samples.x, x, rtol=0, atol=1e-12)
    assert np.array_equal(samples.stats.num_steps, [2, 2, 2])


def test_tweedie_is_the_posterior_mean(gaussian, x64):
    """The last step maps the end state to E[x1 | x]; under VE that is an affine map known from the Gaussian."""
    oracle, schedule = gaussian.oracle, frx.VarianceExploding(0.3, 10.0)
    model, key = oracle.model(schedule), jax.random.key(4)
    plain = np.asarray(frx.sample(model, key, 5).x)
    mean, cov = np.asarray(oracle.mean), np.asarray(oracle.covariance)
    gain = cov @ np.linalg.inv(cov + 0.09 * np.eye(2))
    want = mean + (plain - mean) @ gain.T
    assert np.allclose(frx.sample(model, key, 5, last_step=frx.Tweedie()).x, want, rtol=0, atol=1e-8)


@pytest.mark.accuracy
@pytest.mark.parametrize("name", ["linear", "vp", "subvp", "ve", "edm"])
def test_truncation_of_the_source(name):
    """The ordinary Gaussian source neglects what data is left at t = 0, of size r = alpha(0) / sigma(0).

    To second order it changes log p by -r m.u - r^2 (Var(x.u) - E|x|^2) / 2, with m the mean of the data x and u
    standard normal: by less than r |m| + r^2 E|x|^2 on average; benchmarks/truncation.py prints errors and bound.
    Where r = 0 exactly, as in "linear", the two sources are one.
    """
    oracle, schedule = mixture(25, 2, "float32"), SCHEDULES[name]
    source = frx.prior.Gaussian((2,), std=schedule.sigma(0.0), dtype=np.float32)
    key = jax.random.key(5)
    x = oracle.sample(key, (500,)) + schedule.sigma(1.0) * jax.random.normal(jax.random.fold_in(key, 1), (500, 2))
    value = frx.log_prob(oracle.model(schedule, source=source), x).value
    error = np.abs(np.asarray(value - marginal_log_prob(oracle, schedule, x)))
    ratio = float(schedule.alpha(0.0) / schedule.sigma(0.0))
    mean, second = moments(oracle)
    first_order = ratio * np.linalg.norm(mean)
    # The solver's own share, all there is where no data is left.
    assert error.mean() <= first_order + ratio**2 * np.trace(second) + 1e-4
    assert error.mean() >= 0.5 * first_order
