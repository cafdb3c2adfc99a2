"""Every schedule, target, dynamics, diffusion coefficient and solver of the package against a Gaussian oracle.

The network is the oracle's exact output in each target, so that only the formulas and the solver are left to blame. One
compilation serves all schedules, targets and coefficients: which of them runs is a number that is traced.
"""

import functools

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowrax as frx
import registry
from flowrax import dynamics as dyn
from registry import COEFFICIENTS, DYNAMICS, FLOW_SOLVERS, NOISE_SOLVERS, SCHEDULES, TARGETS

# Where every schedule and target is finite.
LOW, HIGH = 0.05, 0.95
MEAN, COVARIANCE = np.array([0.5, -1.0]), np.array([[1.0, 0.4], [0.4, 0.6]])
KEY = jax.random.key(0)
NAMES = list(SCHEDULES)


def oracle():
    return frx.oracle.Gaussian(MEAN, COVARIANCE)


def model(schedule, target="Velocity", *, chosen=True):
    """Exact in its target; `chosen` shares one compilation among all targets."""
    path = registry.Chosen(jnp.asarray(NAMES.index(schedule), jnp.int32))
    goal = registry.ChosenTarget(jnp.asarray(list(TARGETS).index(target), jnp.int32)) if chosen else TARGETS[target]
    network = registry.ExactNetwork(oracle(), path, goal)
    return frx.Model(network, path, goal, shape=(2,), dtype=jnp.float64, t_min=LOW, t_max=HIGH)


@functools.cache
def even_grid(schedule, steps, low=LOW, high=HIGH):
    """Even in log-SNR."""
    path = SCHEDULES[schedule]
    first, last = (float(path.log_snr(jnp.asarray(t))) for t in (low, high))
    times = np.array(path.time_at(jnp.linspace(first, last, steps + 1)))
    times[0], times[-1] = low, high
    return times


def starts(num, schedule):
    """Of the exact law at `LOW`."""
    path = SCHEDULES[schedule]
    data, noise = oracle().sample(KEY, (num,)), jax.random.normal(jax.random.key(1), (num, 2))
    return path.alpha(jnp.asarray(LOW)) * data + path.sigma(jnp.asarray(LOW)) * noise


def test_the_registry_is_complete():
    """A class that is new is picked up here; one that needs arguments fails the import of `registry` by its name."""
    for base, found in (
        (frx.schedule.AbstractSchedule, SCHEDULES),
        (frx.target.AbstractTarget, TARGETS),
        (dyn.AbstractDiffusion, COEFFICIENTS),
        (frx.abstract.AbstractDynamics, DYNAMICS),
        (dfx.AbstractSolver, FLOW_SOLVERS),
    ):
        assert {cls.__name__ for cls in registry.finals(base)} <= {*found, *registry.ELSEWHERE}
    assert {"Linear", "EDM", "Tabulated"} <= set(SCHEDULES) and {"SBDM", "Custom"} <= set(COEFFICIENTS)


@pytest.mark.parametrize("target", TARGETS)
def test_predictions(target, x64):
    """All forms of the prediction, whatever the network gives, are the oracle's at random times and states."""
    times, x = np.linspace(LOW, HIGH, 7), np.asarray(3 * jax.random.normal(KEY, (7, 2)))

    @jax.jit
    def forms(index):
        path = registry.Chosen(index)
        exact = oracle().model(path)
        network = registry.ExactNetwork(oracle(), path, TARGETS[target])
        ours = frx.Model(network, path, TARGETS[target], shape=(2,), dtype=jnp.float64, t_min=LOW, t_max=HIGH)

        def four(model, t, x):
            p = model.predict(t, x)
            return p.data, p.noise, p.velocity, p.score

        return [jax.vmap(four, (None, 0, 0))(m, jnp.asarray(times), jnp.asarray(x)) for m in (ours, exact)]

    for index, name in enumerate(NAMES):
        got, want = forms(jnp.asarray(index, jnp.int32))
        for one, other in zip(got, want, strict=True):
            # Against the largest element of the row: an ill-conditioned table loses a few digits of that.
            room = 1e-9 * (1 + np.max(np.abs(other)))
            np.testing.assert_allclose(one, other, rtol=0, atol=room, err_msg=name)


# Steps, and the error that remains of data of unit size, by order of the solver; orders have tests of their own.
ACCURACY = {1: (800, 0.03), 2: (200, 3e-3), 3: (100, 3e-3), 4: (100, 1e-3), 5: (60, 1e-4)}


@pytest.mark.accuracy
@pytest.mark.parametrize("solver", FLOW_SOLVERS)
def test_every_flow_solver_ends_where_the_flow_ends(solver, x64):
    """Under every schedule, and at the same place whatever the network predicts."""
    method, order = FLOW_SOLVERS[solver]
    steps, room = ACCURACY[order]
    wrong = []
    for schedule in NAMES:
        x0, grid = starts(8, schedule), even_grid(schedule, steps)
        want = oracle().flow(SCHEDULES[schedule], LOW, HIGH, x0)
        ends = [
            np.asarray(frx.sample(model(schedule, target), KEY, 8, x0=x0, solver=method, grid=grid).x)
            for target in TARGETS
        ]
        error, spread = np.max(np.abs(ends[0] - want)), max(np.max(np.abs(x - ends[0])) for x in ends)
        # The rate of a table jumps from step to step, which costs solvers of high order their order.
        allowed = max(room, 3e-3) if schedule == "Tabulated" else room
        if not (error <= allowed and spread <= 1e-8):
            wrong.append((schedule, error, spread))
    assert not wrong


# By dynamics: solver, grid, and the time whose law it keeps (a fixed one for Langevin).
SAMPLES, STEPS = 2000, 250


def wrong_moments(x, schedule, t):
    """The largest deviation of mean and covariance from the law at `t`, in standard errors of this many samples."""
    path = SCHEDULES[schedule]
    alpha, sigma = (float(f(jnp.asarray(t))) for f in (path.alpha, path.sigma))
    root = np.linalg.cholesky(alpha**2 * COVARIANCE + sigma**2 * np.eye(2))
    z = np.linalg.solve(root, (np.asarray(x) - alpha * MEAN).T).T
    deviation = np.abs(z.T @ z / len(z) - np.eye(2)) / np.where(np.eye(2), 2**0.5, 1.0)
    return len(z) ** 0.5 * max(np.max(np.abs(z.mean(0))), np.max(deviation))


def noisy(schedule, dynamics, solver=None, *, t=HIGH, steps=STEPS, target="Velocity"):
    """How wrong the law of draws is that start from the exact law, through `sample`."""
    own = isinstance(dynamics, dyn.Langevin | dyn.UnderdampedLangevin)
    grid = np.linspace(0.0, dynamics.duration, steps + 1) if own else even_grid(schedule, steps)
    exact = model(schedule, target)
    x0 = starts(SAMPLES, schedule)
    if own:
        path = SCHEDULES[schedule]
        x0 = oracle().scaled(path.alpha(jnp.asarray(t)), path.sigma(jnp.asarray(t))).sample(KEY, (SAMPLES,))
    draws = frx.sample(exact, jax.random.key(2), SAMPLES, x0=x0, dynamics=dynamics, solver=solver, grid=grid)
    return wrong_moments(draws.x, schedule, t)


@pytest.mark.accuracy
@pytest.mark.parametrize("coefficient", COEFFICIENTS)
def test_every_coefficient_keeps_the_law(coefficient, x64):
    """Under every schedule, within 5 standard errors."""
    index = jnp.asarray(list(COEFFICIENTS).index(coefficient), jnp.int32)
    sde = frx.ReverseSDE(registry.ChosenCoefficient(index))
    wrong = {name: noisy(name, sde, dfx.Heun()) for name in NAMES}
    assert max(wrong.values()) <= 5, wrong


@pytest.mark.accuracy
@pytest.mark.parametrize("solver", NOISE_SOLVERS)
def test_every_solver_of_the_reverse_sde_keeps_the_law(solver, x64):
    """Under every schedule and for every target."""
    wrong = {name: noisy(name, frx.ReverseSDE(), NOISE_SOLVERS[solver]) for name in NAMES}
    wrong |= {target: noisy("Linear", frx.ReverseSDE(), NOISE_SOLVERS[solver], target=target) for target in TARGETS}
    assert max(wrong.values()) <= 5, wrong


ROUTES = {name for name in DYNAMICS if name not in ("ProbabilityFlow", "ReverseSDE")}


@pytest.mark.accuracy
@pytest.mark.parametrize("name", sorted(ROUTES))
def test_every_dynamics_keeps_the_law(name, x64):
    """Under every schedule with the solver that is its default; Langevin's at its own fixed time."""
    dynamics = DYNAMICS[name]
    t = getattr(dynamics, "time", HIGH)
    wrong = {schedule: noisy(schedule, dynamics, t=t) for schedule in NAMES}
    assert max(wrong.values()) <= 5, wrong


@pytest.mark.accuracy
@pytest.mark.parametrize("divergence", [frx.Exact(), frx.Hutchinson(16), frx.HutchPP(6), frx.XTrace(4)], ids=str)
def test_every_divergence_gives_the_density(divergence, x64):
    """Under every schedule, on all of [0, 1]; within 5 of its standard errors and what the tolerance leaves."""
    x = oracle().sample(KEY, (6,))
    for index, name in enumerate(NAMES):
        exact = oracle().model(registry.Chosen(jnp.asarray(index, jnp.int32)))
        got = frx.log_prob(exact, x, divergence=divergence, key=KEY, rtol=1e-6, atol=1e-6)
        want = oracle().marginal_log_prob(SCHEDULES[name], jnp.asarray(1.0), x)
        room = 1e-3 + 5 * np.asarray(got.standard_error)
        assert np.all(np.abs(np.asarray(got.value - want)) <= room), name
