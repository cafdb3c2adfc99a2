"""What exponential solvers must put up with: adjoints, jumps, precisions, grids, wrong company."""

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowrax as frx
from flowrax.dynamics import Constant
from flowrax.stepper import SemilinearTerm
from flowrax.times import edm_grid, log_snr_grid
from laws import SCHEDULES, mixture

SOLVERS = {
    "2M": frx.DPMSolverPP(2),
    "3M": frx.DPMSolverPP(3),
    "UniPC-2": frx.UniPC(2),
    "UniPC-3": frx.UniPC(3),
    "DPM-Solver-2": frx.DPMSolver(2),
}


@pytest.mark.accuracy
def test_ordinary_solvers_see_an_ode_term():
    """The same bits from the semilinear term and from diffrax's own, adaptive and not."""
    model = mixture(3, 2, "float32").model(frx.Linear())
    x0, drift = jnp.array([0.3, -0.4]), frx.ProbabilityFlow().drift
    control = dfx.PIDController(rtol=1e-5, atol=1e-5)
    for solver, steps, controller in [(dfx.Dopri5(), None, control), (dfx.Heun(), 0.05, dfx.ConstantStepSize())]:
        a, b = (
            dfx.diffeqsolve(term, solver, 0.0, 1.0, steps, x0, (model, None), stepsize_controller=controller)
            for term in (SemilinearTerm(drift), dfx.ODETerm(drift))
        )
        np.testing.assert_array_equal(a.ys, b.ys)
        assert a.stats == b.stats


@pytest.mark.accuracy
@pytest.mark.parametrize("name", ["UniPC-3", "DPM-Solver-2"])
def test_gradients_through_infinite_ends(name, x64):
    """By diffrax's two adjoints, against central differences, in the law and in the start."""
    mean, covariance = jnp.array([0.5, -1.0]), jnp.array([[1.0, 0.6], [0.6, 0.45]])
    x0 = jnp.array([[0.3, -1.2]])

    def end(parameters, adjoint):
        mean, x0 = parameters
        model = frx.oracle.Gaussian(mean, covariance).model(frx.Linear())
        options = dict(x0=x0, solver=SOLVERS[name], grid=6, adjoint=adjoint, throw=False)
        return jnp.sum(jnp.sin(frx.sample(model, jax.random.key(0), 1, **options).x))

    solves = [jax.jit(jax.value_and_grad(lambda p, a=a: end(p, a))) for a in (None, dfx.DirectAdjoint())]
    value, grads = (lambda p: solves[0](p)[0]), [solve((mean, x0))[1] for solve in solves]
    step = 1e-5
    for direction in ((jnp.array([1.0, 0.0]), jnp.zeros((1, 2))), (jnp.zeros(2), jnp.array([[0.6, 0.8]]))):
        plus, minus = (value(jax.tree.map(lambda p, d, s=s: p + s * step * d, (mean, x0), direction)) for s in (1, -1))
        want = (plus - minus) / (2 * step)
        for grad in grads:
            got = sum(jnp.sum(g * d) for g, d in zip(grad, direction, strict=True))
            np.testing.assert_allclose(got, want, rtol=1e-7)


def test_a_jump_forgets_the_history(x64):
    model = mixture(3, 2, "float64").model(frx.Linear())
    terms, args, x = SemilinearTerm(frx.ProbabilityFlow().drift), (model, None), jnp.array([0.3, -0.4])

    @eqx.filter_jit
    def second(solver, jump):
        first, later, no = (
            (jnp.asarray(0.2), jnp.asarray(0.3)),
            (jnp.asarray(0.3), jnp.asarray(0.4)),
            jnp.asarray(False),
        )
        state = solver.step(terms, *first, x, args, solver.init(terms, *first, x, args), no)[3]
        return [
            s.step(terms, *later, x, args, *rest)[0] for s, *rest in ((solver, state, jump), (frx.DDIM(), None, no))
        ]

    for name in ("2M", "3M", "UniPC-2"):
        ends, (one, _) = zip(*(second(SOLVERS[name], jnp.asarray(jump)) for jump in (False, True)), strict=True)
        np.testing.assert_allclose(ends[1], one, rtol=1e-12)
        assert np.max(np.abs(ends[0] - one)) > 1e-3


def test_single_precision_and_strict_numerics():
    """float32 with debug_nans over infinite ends agrees with float64."""
    ends = []
    for dtype in ("float32", "float64"):
        with jax.enable_x64(dtype == "float64"), jax.debug_nans(True):
            means, covariances = np.array([[2.0, 0.0], [-1.0, 1.0]], dtype), np.array([0.3 * np.eye(2)] * 2, dtype)
            model = frx.oracle.GaussianMixture(np.ones(2, dtype), means, covariances).model(frx.Linear())
            x0 = np.array([[0.3, -0.4]], dtype)
            x = frx.sample(model, jax.random.key(0), 1, x0=x0, solver=frx.UniPC(3), grid=10).x
            assert x.dtype == dtype
            ends.append(np.asarray(x, np.float64))
    np.testing.assert_allclose(*ends, atol=2e-5)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_grids(schedule, x64):
    """Even in what they say, between ends that are the interval's."""
    path, n = SCHEDULES[schedule], 12
    inside = slice(int(0.0 in path.singularities.log_snr), n + 1 - int(1.0 in path.singularities.log_snr))
    for times, measure in (
        (log_snr_grid(path, n), lambda log_snr: log_snr),
        (edm_grid(path, n, rho=3.0), lambda log_snr: np.exp(-log_snr / 6)),
    ):
        assert times.shape == (n + 1,)
        assert times[0] == 0 and times[-1] == 1 and np.all(np.diff(times) > 0)
        gaps = np.diff(measure(np.asarray(path.log_snr(times[inside]))))
        np.testing.assert_allclose(gaps, gaps[0], rtol=1e-8)


def test_edm_grid_of_the_edm_schedule_is_even(x64):
    np.testing.assert_allclose(edm_grid(frx.EDM(), 18), np.linspace(0, 1, 19), atol=1e-12)


def run(model=None, **options):
    model = mixture(3, 2, "float32").model(frx.Linear()) if model is None else model
    return lambda: frx.sample(model, jax.random.key(0), 2, **{"grid": 4, **options})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            run(dynamics=frx.ReverseSDE(Constant()), solver=frx.SEEDS()),
            "SEEDS integrates ReverseSDE(SBDM(scale)) only; use a diffrax solver for other coefficients.",
        ),
        (
            run(dynamics=frx.ReverseSDE(), solver=frx.UniPC()),
            "UniPC is for the probability flow; use DDIM, DPMSolverPP or SEEDS with ReverseSDE().",
        ),
        (
            run(dynamics=frx.Langevin(0.5, 1.0), solver=frx.DDIM()),
            "DDIM is for ProbabilityFlow() and ReverseSDE() in sample; use another solver here.",
        ),
        (
            run(dynamics=frx.ReverseSDE(frx.dynamics.SBDM(2.0)), solver=frx.DDIM()),
            "DDIM needs ReverseSDE(SBDM(scale)) with a scale in [0, 1]; got 2.0.",
        ),
        (
            run(dynamics=frx.Churn(0.1), solver=dfx.Heun()),
            "Churn needs an exponential solver such as EDMHeun(); got Heun.",
        ),
        (
            run(dynamics=frx.Restart(0.0, 0.5)),
            "Restart has t_min=0.0; it needs times in [0.0, 1.0] of finite log-SNR.",
        ),
        (lambda: frx.UniPC(4), "UniPC has order 1, 2 or 3; got 4."),
        (lambda: frx.DPMSolver(1), "DPMSolver has order 2 or 3; got 1."),
        (lambda: log_snr_grid(frx.Linear(), 2), "num_steps=2 is too few; at least 3 are needed on this interval."),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError) as error:
        call()
    assert str(error.value).splitlines()[0] == message
