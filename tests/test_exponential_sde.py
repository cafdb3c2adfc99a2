"""Exponential solvers of the reverse SDE: their law in closed form, step by step, and what it converges to.

For Gaussian data a solve is an affine map of the start and of the normal draws. Its derivative gives the law of the end
exactly, with no sampling.
"""

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import flowrax as frx
from flowrax.dynamics import SBDM
from flowrax.dynamics.renoise import renoise
from flowrax.stepper import SemilinearTerm
from flowrax.times import edm_grid
from laws import SCHEDULES, assert_moments, mixture, moments

SOLVERS = {
    "DDIM": frx.DDIM(),
    "SEEDS-1": frx.SEEDS(1),
    "SEEDS-2": frx.SEEDS(2),
    "2M": frx.DPMSolverPP(2),
    "3M": frx.DPMSolverPP(3),
}


class Given(dfx.AbstractBrownianPath):
    """A path whose normal draws `(k, 2, ...)` of increment and Levy area are given."""

    times: jax.Array
    normals: jax.Array
    levy_area: type = dfx.SpaceTimeLevyArea

    @property
    def t0(self):
        return self.times[0]

    @property
    def t1(self):
        return self.times[-1]

    def evaluate(self, t0, t1=None, left=True, use_levy=False):
        index = jnp.searchsorted(self.times, (t0 + t1) / 2) - 1
        first, second = self.normals[index] * jnp.sqrt(t1 - t0)
        return dfx.SpaceTimeLevyArea(dt=t1 - t0, W=first, H=second / 12**0.5) if use_levy else first


@eqx.filter_jit
def end_and_slopes(solver, model, scale, mean, times):
    """Of the end state in one dimension, at the mean start and no noise; slopes in the start and in the draws."""

    def end(x, normals):
        unit = lambda t, y, args: lx.DiagonalLinearOperator(jnp.ones_like(y))  # noqa: E731
        noise = dfx.ControlTerm(unit, Given(times, normals))
        terms = dfx.MultiTerm(SemilinearTerm(frx.ProbabilityFlow().drift, scale), noise)

        def step(carry, ends):
            y, _, _, state, _ = solver.step(terms, *ends, carry[0], (model, None), carry[1], jnp.asarray(False))
            return (y, state), None

        state = solver.init(terms, times[0], times[1], x, (model, None))
        return jax.lax.scan(step, (x, state), (times[:-1], times[1:]))[0][0][0]

    return jax.value_and_grad(end, argnums=(0, 1))(mean, jnp.zeros((len(times) - 1, 2, 1)))


def law(solver, model, scale, times):
    """Mean and variance at the last time, started from the exact law at the first."""
    start = model.source_at(float(times[0]))
    end, slopes = end_and_slopes(solver, model, jnp.asarray(scale), start.mean, jnp.asarray(times))
    return float(end), float(slopes[0][0] ** 2 * start.covariance[0, 0] + jnp.sum(slopes[1] ** 2))


def slope(steps, errors):
    return -np.polyfit(np.log(steps), np.log(errors), 1)[0]


@pytest.mark.parametrize(
    ("name", "schedule"), [(name, s) for i, name in enumerate(SOLVERS) for s in ("linear", ("vp", "ve")[i % 2])]
)
def test_exact_law_for_constant_data(name, schedule, x64):
    """Over all of [0, 1], and up to 0.8, for several diffusions, to rounding."""
    model = frx.oracle.Gaussian(np.array([1.5]), np.zeros((1, 1))).model(SCHEDULES[schedule])
    for scale in (0.0, 0.4, 1.0):
        for last in (0.8, 1.0):
            times = last * np.array([0.0, 0.3, 0.35, 0.7, 1.0])
            mean, variance = law(SOLVERS[name], model, scale, times)
            alpha, sigma = float(model.schedule.alpha(last)), float(model.schedule.sigma(last))
            np.testing.assert_allclose(mean, alpha * 1.5, rtol=1e-11)
            np.testing.assert_allclose(variance, sigma**2, rtol=1e-11, atol=1e-25)


# Solver and the weak order of its variance.
WEAK = {"DDIM": 1, "SEEDS-1": 1, "SEEDS-2": 2, "2M": 2}


@pytest.mark.accuracy
@pytest.mark.parametrize("name", WEAK)
def test_weak_order(name, x64):
    model = frx.oracle.Gaussian(np.array([1.5]), np.array([[0.3]])).model(frx.VariancePreserving())
    path, counts = model.schedule, np.array([64, 128, 256])
    grids = [np.array(path.time_at(jnp.linspace(path.log_snr(0.0), path.log_snr(0.97), n + 1))) for n in counts]
    found = [law(SOLVERS[name], model, 1.0, times) for times in grids]
    want = model.source_at(float(grids[-1][-1]))
    # The data prediction at the mean is the mean of the data, so that all of these are exact there.
    np.testing.assert_allclose([mean for mean, _ in found], want.mean[0], rtol=1e-12)
    errors = [abs(variance - float(want.covariance[0, 0])) for _, variance in found]
    assert abs(slope(counts, errors) - WEAK[name]) <= 0.15


@pytest.mark.accuracy
def test_ancestral_step_is_the_posterior_of_ddpm(x64):
    """Mean and variance of q(x_t | x_s, x_1 = D) by conditioning the joint Gaussian of x_t and x_s."""
    model = mixture(3, 1, "float64").model(frx.Cosine())
    (s, t), x = (0.3, 0.45), jnp.array([0.4])
    data = float(model.predict(jnp.asarray(s), x).data[0])
    (alpha_s, alpha_t), (sigma_s, sigma_t) = (
        np.asarray(f(np.array([s, t]))) for f in (model.schedule.alpha, model.schedule.sigma)
    )
    # x_t = alpha_t D + sigma_t e, and forward from it x_s = a x_t + noise of what variance makes sigma_s.
    a = alpha_s / alpha_t
    gain = a * sigma_t**2 / sigma_s**2
    mean = alpha_t * data + gain * (0.4 - alpha_s * data)
    variance = sigma_t**2 - gain * a * sigma_t**2
    for name in ("DDIM", "SEEDS-1"):
        end, slopes = end_and_slopes(SOLVERS[name], model, jnp.asarray(1.0), x, jnp.array([s, t]))
        np.testing.assert_allclose(end, mean, rtol=1e-12)
        np.testing.assert_allclose(slopes[1][0, 0, 0] ** 2, variance, rtol=1e-12)


@pytest.mark.parametrize("name", SOLVERS)
def test_without_noise_it_is_the_flow(name, x64):
    """ReverseSDE(SBDM(0)) against ProbabilityFlow(), two steps."""
    model, solver = mixture(3, 1, "float64").model(frx.Linear()), SOLVERS[name]
    times = jnp.array([0.2, 0.35, 0.6])
    noise = dfx.ControlTerm(lambda t, y, args: lx.DiagonalLinearOperator(y), Given(times, jnp.ones((2, 2, 1))))
    flow = SemilinearTerm(frx.ProbabilityFlow().drift)

    @jax.jit
    def both():
        ends = []
        for terms in (flow, dfx.MultiTerm(SemilinearTerm(flow.vector_field, 0.0), noise)):
            y, args = jnp.array([0.4]), (model, None)
            state = solver.init(terms, times[0], times[1], y, args)
            for t0, t1 in zip(times[:-1], times[1:], strict=True):
                y, _, _, state, _ = solver.step(terms, t0, t1, y, args, state, jnp.asarray(False))
            ends.append(y)
        return ends

    ends = both()
    np.testing.assert_allclose(*ends, rtol=1e-13)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_going_back_is_the_forward_process(schedule, x64):
    """It takes alpha and sigma at one time to those at the other."""
    path, t, earlier = SCHEDULES[schedule], jnp.asarray(0.6), jnp.asarray(0.25)
    model = mixture(3, 1, "float64").model(path)
    keep, std = (renoise(model, t, earlier, jnp.asarray([a]), jnp.asarray([1 - a]))[0] for a in (1.0, 0.0))
    np.testing.assert_allclose(keep * path.alpha(t), path.alpha(earlier), rtol=1e-12)
    np.testing.assert_allclose(keep**2 * path.sigma(t) ** 2 + std**2, path.sigma(earlier) ** 2, rtol=1e-12)


def test_churn_goes_back_by_gamma(x64):
    """The ratio of noise to data grows by 1 + gamma, not beyond the start, and within its range of noise only."""
    model = mixture(3, 1, "float64").model(frx.VarianceExploding())
    churn, x = frx.Churn(0.2, sigma_max=10.0), jnp.zeros(1)
    for t, grows in ((0.0, 1.0), (0.1, 1.0), (0.5, 1.2), (0.9, 1.2)):
        start, _ = churn.back(model, jnp.asarray(t), jnp.asarray(0.95), x, x)
        np.testing.assert_allclose(model.schedule.sigma(start) / model.schedule.sigma(t), grows, rtol=1e-12)
    start, _ = frx.Churn(0.2).back(model, jnp.asarray(0.01), jnp.asarray(0.95), x, x)
    np.testing.assert_array_equal(start, 0.0)


def test_no_churn_is_heun():
    model = mixture(3, 2, "float32").model(frx.EDM())
    a = frx.sample(model, jax.random.key(0), 4, solver=frx.EDMHeun(), grid=12)
    b = frx.sample(model, jax.random.key(0), 4, dynamics=frx.Churn(0.0), grid=12)
    np.testing.assert_array_equal(a.stats.num_evaluations, b.stats.num_evaluations)
    np.testing.assert_allclose(a.x, b.x, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("solver", [frx.UniPC(1), frx.UniPC(2), frx.DPMSolverPP(2), frx.DPMSolverPP(3)])
def test_churn_refuses_solvers_that_use_the_steps_before(solver):
    model, name = mixture(3, 2, "float32").model(frx.EDM()), type(solver).__name__
    with pytest.raises(
        ValueError, match=f"^Churn adds noise before each step, so {name} could not use the previous steps; use "
    ):
        frx.sample(model, jax.random.key(0), 4, dynamics=frx.Churn(0.1), solver=solver, grid=4)


@pytest.mark.accuracy
def test_restart_keeps_the_steps_before_where_no_noise_came_between():
    """Up to its time the steps are those of the flow, of two values; those of one value are others."""
    model = mixture(3, 2, "float32").model(frx.VariancePreserving())
    options = dict(grid=np.linspace(0, 1, 9), saveat=dfx.SaveAt(ts=[0.5]), x0=np.float32([[1.0, -0.5]]))
    restart = frx.Restart(0.4, 0.75, num_steps=4)

    def middle(order, **more):
        return frx.sample(model, jax.random.key(0), 1, solver=frx.DPMSolverPP(order), **options, **more).trajectory

    np.testing.assert_allclose(middle(2, dynamics=restart), middle(2), rtol=1e-6)
    assert np.max(np.abs(middle(2) - middle(1))) > 1e-3


DRAWS = {
    "ancestral": (frx.ReverseSDE(), frx.DDIM(), 400),
    "2M-SDE": (frx.ReverseSDE(), frx.DPMSolverPP(2), 100),
    "SEEDS-2": (frx.ReverseSDE(SBDM(0.5)), frx.SEEDS(2), 100),
    "churn": (frx.Churn(0.1), None, 80),
    "restart": (frx.Restart(0.4, 0.8, num_restarts=2, num_steps=20), frx.DPMSolverPP(2), 80),
}


@pytest.mark.accuracy
@pytest.mark.parametrize("name", DRAWS)
def test_samples_have_the_moments_of_the_data(name):
    """Draws of a mixture through `sample`, within 5 standard errors."""
    dynamics, solver, steps = DRAWS[name]
    model = mixture(4, 2, "float32", seed=2).model(frx.VariancePreserving())
    grid = edm_grid(model.schedule, steps)
    x = frx.sample(model, jax.random.key(1), 4000, dynamics=dynamics, solver=solver, grid=grid).x
    assert_moments(x, *moments(model.oracle))


def test_restart_starts_over():
    """With a wide restart the end hardly depends on the first pass; without any it does."""
    model = mixture(4, 2, "float32", seed=2).model(frx.VariancePreserving())
    x0 = np.float32([[2.0, 0.0], [-2.0, 0.0]] * 200)
    options = dict(x0=x0, grid=20)
    plain = np.asarray(frx.sample(model, jax.random.key(0), 400, solver=frx.EDMHeun(), **options).x)
    dynamics = frx.Restart(0.05, 0.9, num_steps=20)
    again = np.asarray(frx.sample(model, jax.random.key(0), 400, dynamics=dynamics, **options).x)
    apart = lambda x: np.abs(x[::2].mean(0) - x[1::2].mean(0)).max()  # noqa: E731
    assert apart(again) < 5 * again.std() * (2 / 200) ** 0.5 < apart(plain)
