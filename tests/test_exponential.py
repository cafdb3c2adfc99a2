"""Exponential solvers of the probability flow: exactness, orders, the papers' formulas, what they must put up with."""

import itertools

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowrax as frx
from flowrax.stepper import SemilinearTerm
from flowrax.stepper.exponential.base import psi
from laws import SCHEDULES, mixture

# Solver and its order of convergence.
SOLVERS = {
    "DDIM": (frx.DDIM(), 1),
    "1M": (frx.DPMSolverPP(1), 1),
    "2M": (frx.DPMSolverPP(2), 2),
    "3M": (frx.DPMSolverPP(3), 3),
    "UniPC-1": (frx.UniPC(1), 2),
    "UniPC-2": (frx.UniPC(2), 3),
    "UniPC-3": (frx.UniPC(3), 4),
    "DPM-Solver-2": (frx.DPMSolver(2), 2),
    "DPM-Solver-3": (frx.DPMSolver(3), 3),
    "SEEDS-2": (frx.SEEDS(2), 2),
    "EDM Heun": (frx.EDMHeun(), 2),
}


@eqx.filter_jit
def march(solver, model, x0, low, high, num_steps):
    """The flow over a number of steps that is traced: even in log-SNR where that is finite, else in time."""
    terms, args, schedule = SemilinearTerm(frx.ProbabilityFlow().drift), (model, None), model.schedule
    first, last = schedule.log_snr(low), schedule.log_snr(high)

    def time(k):
        part = k / num_steps
        inside = jnp.where(jnp.isfinite(last - first), first + part * (last - first), 0)
        return jnp.where(jnp.isfinite(last - first), schedule.time_at(inside), low + part * (high - low))

    def one(x):
        def step(k, carry):
            y, state = carry
            t0, t1 = jnp.where(k == 0, low, time(k)), jnp.where(k == num_steps - 1, high, time(k + 1))
            y, _, _, state, _ = solver.step(terms, t0, t1, y, args, state, jnp.asarray(False))
            return y, state

        return jax.lax.fori_loop(0, num_steps, step, (x, solver.init(terms, low, time(1), x, args)))[0]

    return jax.vmap(one)(x0)


def solve(solver, model, x0, num_steps, low=0.0, high=1.0):
    return np.asarray(march(solver, model, x0, jnp.asarray(low), jnp.asarray(high), jnp.asarray(num_steps)))


def slope(steps, errors):
    return -np.polyfit(np.log(steps), np.log(errors), 1)[0]


def test_psi_is_its_integral(x64):
    """By Gauss-Legendre quadrature where that converges, by its limit at infinity, to rounding."""
    nodes, weights = np.polynomial.legendre.leggauss(60)
    u = (nodes + 1) / 2
    for decay in (-8.0, -1.0, -1e-3, 1e-9, 0.3, 0.999, 1.001, 5.0, 40.0):
        want = [decay * np.sum(weights / 2 * np.exp(-decay * (1 - u)) * u**k) for k in range(4)]
        np.testing.assert_allclose(psi(jnp.asarray(decay), 4), want, rtol=2e-12)
    np.testing.assert_array_equal(psi(jnp.asarray(np.inf), 4), np.ones(4))


# Each solver under one schedule that is infinite at both ends and under one that is not, in turn.
BOTH = [name for name, path in SCHEDULES.items() if all((t in path.singularities.log_snr) for t in (0.0, 1.0))]
OTHERS = [name for name in SCHEDULES if name not in BOTH]
MET = [(name, kind[i % len(kind)]) for i, name in enumerate(SOLVERS) for kind in (BOTH, OTHERS)]


def test_every_schedule_is_met():
    assert BOTH and {schedule for _, schedule in MET} == set(SCHEDULES)


@pytest.mark.accuracy
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_exact_for_constant_data(schedule, x64):
    """All of [0, 1], whatever is infinite at its ends: x1 is the data, and noise there is at t = 0 ends as sigma(1)."""
    data = np.array([1.5, -0.5])
    model = frx.oracle.Gaussian(data, np.zeros((2, 2))).model(SCHEDULES[schedule])
    alpha, sigma = (np.asarray(f(jnp.array([0.0, 1.0])))[:, None] for f in (model.schedule.alpha, model.schedule.sigma))
    noise = np.array([0.3, -2.0])
    start, want = alpha * data + sigma * noise
    for name in [name for name, met in MET if met == schedule]:
        for num_steps in (2, 7):
            got = solve(SOLVERS[name][0], model, jnp.asarray(start)[None], num_steps)[0]
            np.testing.assert_allclose(got, want, rtol=0, atol=1e-12 * (1 + sigma[0, 0]), err_msg=name)


@pytest.mark.accuracy
@pytest.mark.parametrize("schedule", ["vp", "ve"])
def test_exact_for_constant_noise(schedule, x64):
    """Every second solver under each of the two."""
    noise, data = np.array([0.3, -2.0]), np.array([1.5, -0.5])
    path = SCHEDULES[schedule]
    network = lambda t, x, condition: jnp.asarray(noise)  # noqa: E731
    model = frx.Model(network, path, frx.Noise(), shape=(2,), dtype=jnp.float64, t_min=0.0)
    ends = jnp.array([0.0, model.t_max])
    start, want = np.asarray(path.alpha(ends))[:, None] * data + np.asarray(path.sigma(ends))[:, None] * noise
    for name, (solver, _) in list(SOLVERS.items())[schedule == "ve" :: 2]:
        got = solve(solver, model, jnp.asarray(start)[None], 7, 0.0, model.t_max)[0]
        # What rounding makes of the data at the noise end.
        atol = 1e-13 * (1 + np.abs(start).max()) / float(path.alpha(0.0))
        np.testing.assert_allclose(got, want, rtol=0, atol=atol, err_msg=name)


# Schedule, interval of finite log-SNR: from far enough in the noise that a first step of lower order does not show.
INTERVALS = {"linear": (1e-3, 0.9), "vp": (0.0, 0.97)}


@pytest.fixture(scope="module")
def truths():
    """Per schedule: the model of a mixture, start states, and where an ordinary solver of order 8 takes them."""
    with jax.enable_x64(True):
        oracle = mixture(3, 2, "float64", seed=3)
        found = {}
        for name, (low, high) in INTERVALS.items():
            model = oracle.model(SCHEDULES[name])
            x0 = jax.vmap(model.source_at(low).draw)(jax.random.split(jax.random.key(0), 8))
            term = dfx.ODETerm(lambda t, y, args, model=model: jax.vmap(lambda x: model.predict(t, x).velocity)(y))
            control = dfx.PIDController(rtol=1e-12, atol=1e-12)
            solution = dfx.diffeqsolve(term, dfx.Dopri8(), low, high, None, x0, stepsize_controller=control)
            found[name] = model, x0, np.asarray(solution.ys[0])
        return found


@pytest.mark.accuracy
@pytest.mark.parametrize(("name", "schedule"), list(zip(SOLVERS, itertools.cycle(INTERVALS), strict=False)))
def test_order_on_a_mixture(name, schedule, truths, x64):
    (solver, order), (model, x0, want) = SOLVERS[name], truths[schedule]
    counts = np.array({1: [512, 1024, 2048], 2: [256, 512, 1024], 3: [128, 256, 512], 4: [192, 384, 768]}[order])
    errors = [np.sqrt(np.mean((solve(solver, model, x0, n, *INTERVALS[schedule]) - want) ** 2)) for n in counts]
    assert abs(slope(counts, errors) - order) <= 0.15
    assert solver.order(None) == order


# The papers' formulas once more, in numpy and by other means than the source: lists of steps and linear systems.


def reference(kind, scales, denoise, x, order):
    """DPM-Solver++ or, of kind "unipc", UniPC by the papers' algorithms on lists of scales."""
    alpha, sigma = scales
    lam = np.log(alpha / sigma)
    data, predicted = [denoise(lam[0], x)], x

    def rule(i, current, nodes, values, simple):
        """The step from i to i + 1 from `current`, through more values at r = (lambda - lambda_i) / h."""
        h = lam[i + 1] - lam[i]
        base = sigma[i + 1] / sigma[i] * current - alpha[i + 1] * np.expm1(-h) * data[i]
        if not nodes:
            return base
        # R rho = b of UniPC (eq. 11), where B = e^(-h) - 1 and h^k phi_k come by their own recursion.
        big, phi, b, factorial = np.expm1(-h), np.expm1(-h) / -h - 1, [], 1
        for k in range(1, len(nodes) + 1):
            b.append(phi * factorial / big)
            factorial *= k + 1
            phi = phi / -h - 1 / factorial
        rho = np.linalg.solve(np.vander(nodes, increasing=True).T, b) if not simple else np.array([0.5])
        slopes = [(value - data[i]) / r for r, value in zip(nodes, values, strict=True)]
        return base - alpha[i + 1] * big * sum(a * b for a, b in zip(rho, slopes, strict=True))

    for i in range(len(lam) - 1):
        h, use = lam[i + 1] - lam[i], min(order, i + 1)
        nodes = [(lam[i - j] - lam[i]) / h for j in range(1, use)]
        values = [data[i - j] for j in range(1, use)]
        predicted = rule(i, x, nodes, values, simple=use == 2)
        if i == len(lam) - 2:
            return predicted
        new = denoise(lam[i + 1], predicted)
        x = rule(i, x, [*nodes, 1.0], [*values, new], simple=use == 1) if kind == "unipc" else predicted
        data.append(new)


@pytest.mark.parametrize("name", ["2M", "3M", "UniPC-1", "UniPC-2", "UniPC-3"])
def test_formulas_of_the_papers(name, x64):
    """On an uneven grid of ten steps in one dimension, to rounding."""
    path = frx.VariancePreserving()
    times = np.cumsum(np.r_[0.05, 0.05 + 0.1 * np.abs(np.sin(3.0 * np.arange(10)))])
    times = 0.05 + 0.9 * (times - times[0]) / (times[-1] - times[0])
    network = lambda t, x, condition: jnp.tanh(x + jnp.sin(path.log_snr(t) / 2))  # noqa: E731
    model = frx.Model(network, path, frx.Data(), shape=(1,), dtype=jnp.float64, t_min=0.05, t_max=0.95)
    got = frx.sample(model, jax.random.key(0), 1, x0=np.array([[0.7]]), solver=SOLVERS[name][0], grid=times).x
    alpha, sigma = np.asarray(path.alpha(times)), np.asarray(path.sigma(times))
    order = int(name[-1]) if name.startswith("UniPC") else int(name[0])
    kind = "unipc" if name.startswith("UniPC") else "multistep"
    want = reference(kind, (alpha, sigma), lambda lam, x: np.tanh(x + np.sin(lam)), 0.7, order)
    np.testing.assert_allclose(got, want, rtol=1e-11)


@pytest.mark.parametrize("order", [2, 3])
def test_formulas_of_dpm_solver(order, x64):
    """Algorithms 1 and 2 of the paper, in noise prediction, to rounding."""
    path, times = frx.Cosine(), np.array([0.1, 0.2, 0.5, 0.8])
    lam = np.asarray(path.log_snr(times)) / 2
    network = lambda t, x, condition: jnp.tanh(x + jnp.sin(path.log_snr(t) / 2))  # noqa: E731
    model = frx.Model(network, path, frx.Noise(), shape=(1,), dtype=jnp.float64, t_min=0.1, t_max=0.8)
    got = frx.sample(model, jax.random.key(0), 1, x0=np.array([[0.7]]), solver=frx.DPMSolver(order), grid=times).x
    a, s = (lambda lam: 1 / np.sqrt(1 + np.exp(-2 * lam))), (lambda lam: 1 / np.sqrt(1 + np.exp(2 * lam)))
    eps, x = (lambda lam, x: np.tanh(x + np.sin(lam))), 0.7
    for start, end in zip(lam[:-1], lam[1:], strict=True):
        h, e0 = end - start, eps(start, x)

        def base(r, x=x, start=start, h=h, e0=e0):
            return a(start + r * h) / a(start) * x - s(start + r * h) * np.expm1(r * h) * e0

        if order == 2:
            x = base(1) - s(end) * np.expm1(h) * (eps(start + h / 2, base(1 / 2)) - e0)
        else:
            r1, r2 = 1 / 3, 2 / 3
            d1 = eps(start + r1 * h, base(r1)) - e0
            u2 = base(r2) - s(start + r2 * h) * r2 / r1 * (np.expm1(r2 * h) / (r2 * h) - 1) * d1
            x = base(1) - s(end) / r2 * (np.expm1(h) / h - 1) * (eps(start + r2 * h, u2) - e0)
    np.testing.assert_allclose(got, x, rtol=1e-11)


@pytest.mark.accuracy
@pytest.mark.parametrize(("name", "logarithms"), [("2M", 1), ("UniPC-2", 0), ("DPM-Solver-2", 1)])
def test_through_infinite_ends(name, logarithms, x64):
    """Over all of [0, 1] on even times: second order, times the logarithm that the sum of 1 / k over steps is."""
    model = frx.oracle.Gaussian(np.array([0.5, -1.0]), np.array([[1.0, 0.3], [0.3, 0.8]])).model(frx.Cosine())
    x0, counts = jax.random.normal(jax.random.key(0), (16, 2)), (512, 1024, 2048)
    want = np.asarray(model.oracle.flow(model.schedule, 0.0, 1.0, x0))
    errors = [np.max(np.abs(solve(SOLVERS[name][0], model, x0, n) - want)) for n in counts]
    assert abs(slope(counts, np.array(errors) / np.log(counts) ** logarithms) - 2) <= 0.15


@pytest.mark.accuracy
@pytest.mark.parametrize(("order", "schedule"), [(2, "linear"), (3, "vp")])
def test_adaptive_steps(order, schedule, x64):
    """Errors follow the tolerance over all of [0, 1], the steps of infinite length included."""
    model = mixture(3, 2, "float64", seed=3).model(SCHEDULES[schedule])
    x0 = jax.vmap(model.source.draw)(jax.random.split(jax.random.key(0), 8))
    want = frx.sample(model, jax.random.key(0), 8, x0=x0, rtol=1e-9, atol=1e-9).x
    for tolerance in (1e-3, 1e-5):
        got = frx.sample(
            model, jax.random.key(0), 8, x0=x0, solver=frx.DPMSolver(order), rtol=tolerance, atol=tolerance
        )
        assert np.max(np.abs(got.x - want)) <= 20 * tolerance
        np.testing.assert_array_equal(got.stats.num_evaluations, order * got.stats.num_steps)
