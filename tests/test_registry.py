"""Every schedule, target, dynamics, diffusion coefficient and solver of the package against a Gaussian oracle.

The network is the oracle's exact output in each target, so that only the formulas and the solver are left to blame.
Each solver and dynamics meets three schedules, the next one the three after these, so that every schedule meets several
of each kind. Which schedule, target or coefficient runs is a number that is traced: all share one compilation.
"""

import functools
import pathlib
import re

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


def model(schedule, target="Velocity", names=tuple(SCHEDULES)):
    """Exact in its target; all schedules of `names` and all targets share one compilation."""
    path = registry.Chosen(schedule, names)
    goal = registry.ChosenTarget(jnp.asarray(list(TARGETS).index(target), jnp.int32))
    network = registry.ExactNetwork(oracle(), path, goal)
    return frx.Model(network, path, goal, shape=(2,), dtype=jnp.float64, t_min=LOW, t_max=HIGH)


FINEST = 2400


@functools.cache
def finest_grid(schedule):
    """Even in log-SNR."""
    path = SCHEDULES[schedule]
    first, last = (float(path.log_snr(jnp.asarray(t))) for t in (LOW, HIGH))
    times = np.array(path.time_at(jnp.linspace(first, last, FINEST + 1)))
    times[0], times[-1] = LOW, HIGH
    return times


def even_grid(schedule, steps):
    """Even in log-SNR, of a number of steps that divides that of the finest."""
    assert FINEST % steps == 0
    return finest_grid(schedule)[:: FINEST // steps]


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
        (frx.dynamics.base.AbstractDynamics, DYNAMICS),
        (dfx.AbstractSolver, FLOW_SOLVERS),
    ):
        assert {cls.__name__ for cls in registry.finals(base)} <= {*found, *registry.ELSEWHERE}
    assert {"Linear", "EDM", "Tabulated"} <= set(SCHEDULES) and {"SBDM", "Custom"} <= set(COEFFICIENTS)


def test_every_other_class_occurs_in_the_test_file_named_for_it():
    """A class that is new fails here until `registry` names the file that tests it."""
    found = {registry.room_name(cls) for kind in registry.TESTED_KINDS for cls in registry.finals(kind)}
    assert found == {*registry.TESTED, *registry.BUILT_BY}
    words = {name: (test, name.split(".")[1]) for name, test in registry.TESTED.items()} | registry.BUILT_BY
    folder = pathlib.Path(__file__).parent
    texts = {test: (folder / f"{test}.py").read_text() for test, _ in words.values()}
    assert not [name for name, (test, text) in words.items() if not re.search(rf"\b{re.escape(text)}", texts[test])]


TIMES = np.linspace(LOW, HIGH, 7)


@functools.cache
def all_scales():
    """Of all schedules at all `TIMES`: a record of `(len(NAMES), 7)`."""
    records = jax.jit(lambda t: [schedule.scales(t, t.dtype) for schedule in SCHEDULES.values()])(jnp.asarray(TIMES))
    return jax.tree.map(lambda *leaves: np.stack(leaves), *records)


@pytest.mark.parametrize("target", TARGETS)
def test_predictions(target, x64):
    """All forms of the prediction under all schedules, whatever the network gives, are the oracle's."""
    x = np.asarray(3 * jax.random.normal(KEY, (7, 2)))

    def forms(scales, t, x):
        path = registry.Fixed(scales)
        network = registry.ExactNetwork(oracle(), path, TARGETS[target])
        ours = frx.Model(network, path, TARGETS[target], shape=(2,), dtype=jnp.float64, t_min=LOW, t_max=HIGH)
        both = [model.predict(t, x) for model in (ours, oracle().model(path))]
        return [[getattr(p, form) for form in ("data", "noise", "velocity", "score")] for p in both]

    over = jax.vmap(jax.vmap(forms), (0, None, None))
    got, want = jax.jit(over)(all_scales(), jnp.asarray(TIMES), jnp.asarray(x))
    for one, other in zip(got, want, strict=True):
        for index, name in enumerate(NAMES):
            # Against the largest element of the row: an ill-conditioned table loses a few digits of that.
            room = 1e-9 * (1 + np.max(np.abs(other[index])))
            np.testing.assert_allclose(one[index], other[index], rtol=0, atol=room, err_msg=name)


# Steps, and the error that remains of data of unit size, by order of the solver; orders have tests of their own.
ACCURACY = {1: (800, 0.03), 2: (200, 3e-3), 3: (100, 3e-3), 4: (100, 1e-3), 5: (60, 1e-4)}


@pytest.mark.accuracy
@pytest.mark.parametrize("solver", FLOW_SOLVERS)
def test_every_flow_solver_ends_where_the_flow_ends(solver, x64):
    """Under three schedules, and at the same place whatever the network predicts."""
    method, order = FLOW_SOLVERS[solver]
    steps, room = ACCURACY[order]
    wrong, names = [], registry.some(SCHEDULES, list(FLOW_SOLVERS).index(solver))
    for schedule in names:
        x0, grid = starts(8, schedule), even_grid(schedule, steps)
        want = oracle().flow(SCHEDULES[schedule], LOW, HIGH, x0)
        ends = [
            np.asarray(frx.sample(model(schedule, target, names), KEY, 8, x0=x0, solver=method, grid=grid).x)
            for target in TARGETS
        ]
        error, spread = np.max(np.abs(ends[0] - want)), max(np.max(np.abs(x - ends[0])) for x in ends)
        # The rate of a table jumps from step to step, which costs solvers of high order their order.
        allowed = max(room, 3e-3) if schedule == "Tabulated" else room
        if not (error <= allowed and spread <= 1e-8):
            wrong.append((schedule, error, spread))
    assert not wrong


SAMPLES, STEPS = 2000, 120


def wrong_moments(x, schedule, t):
    """The largest deviation of mean and covariance from the law at `t`, in standard errors of this many samples."""
    path = SCHEDULES[schedule]
    alpha, sigma = (float(f(jnp.asarray(t))) for f in (path.alpha, path.sigma))
    root = np.linalg.cholesky(alpha**2 * COVARIANCE + sigma**2 * np.eye(2))
    z = np.linalg.solve(root, (np.asarray(x) - alpha * MEAN).T).T
    deviation = np.abs(z.T @ z / len(z) - np.eye(2)) / np.where(np.eye(2), 2**0.5, 1.0)
    return len(z) ** 0.5 * max(np.max(np.abs(z.mean(0))), np.max(deviation))


def noisy(exact, schedule, dynamics, solver=None, *, t=HIGH):
    """How wrong the law of draws is that start from the exact law, through `sample`."""
    own = isinstance(dynamics, dyn.Langevin | dyn.UnderdampedLangevin)
    grid = np.linspace(0.0, dynamics.duration, STEPS + 1) if own else even_grid(schedule, STEPS)
    x0 = starts(SAMPLES, schedule)
    if own:
        path = SCHEDULES[schedule]
        x0 = oracle().scaled(path.alpha(jnp.asarray(t)), path.sigma(jnp.asarray(t))).sample(KEY, (SAMPLES,))
    draws = frx.sample(exact, jax.random.key(2), SAMPLES, x0=x0, dynamics=dynamics, solver=solver, grid=grid)
    return wrong_moments(draws.x, schedule, t)


@pytest.mark.accuracy
@pytest.mark.parametrize("coefficient", COEFFICIENTS)
def test_every_coefficient_keeps_the_law(coefficient, x64):
    """Under two schedules, within 5 standard errors."""
    wrong = {}
    for index, (name, schedule) in enumerate(registry.PAIRS):
        if name == coefficient:
            sde = frx.ReverseSDE(registry.ChosenCoefficient(jnp.asarray(index, jnp.int32)))
            wrong[schedule] = noisy(model(schedule), schedule, sde, dfx.Heun())
    assert len(wrong) == 2 and max(wrong.values()) <= 5, wrong


@pytest.mark.accuracy
@pytest.mark.parametrize("solver", NOISE_SOLVERS)
def test_every_solver_of_the_reverse_sde_keeps_the_law(solver, x64):
    """Under three schedules, each for another target than the one before it; every target meets several solvers."""
    turn = list(NOISE_SOLVERS).index(solver)
    names, wrong = registry.some(SCHEDULES, turn), {}
    for schedule, target in zip(names, registry.some(TARGETS, turn), strict=True):
        exact = model(schedule, target, names)
        wrong[schedule, target] = noisy(exact, schedule, frx.ReverseSDE(), NOISE_SOLVERS[solver])
    assert max(wrong.values()) <= 5, wrong


ROUTES = sorted(name for name in DYNAMICS if name not in ("ProbabilityFlow", "ReverseSDE"))


@pytest.mark.accuracy
@pytest.mark.parametrize("name", ROUTES)
def test_every_dynamics_keeps_the_law(name, x64):
    """Under three schedules with the solver that is its default; Langevin's at its own fixed time."""
    dynamics, names = DYNAMICS[name], registry.some(SCHEDULES, ROUTES.index(name))
    t = getattr(dynamics, "time", HIGH)
    wrong = {schedule: noisy(model(schedule, names=names), schedule, dynamics, t=t) for schedule in names}
    assert max(wrong.values()) <= 5, wrong


DIVERGENCES = [frx.Exact(), frx.Hutchinson(16), frx.divergence.HutchPP(6), frx.divergence.XTrace(4)]


@pytest.mark.accuracy
@pytest.mark.parametrize("divergence", DIVERGENCES, ids=str)
def test_every_divergence_gives_the_density(divergence, x64):
    """Under four schedules, on all of [0, 1]; within 5 of its standard errors and what the tolerance leaves."""
    x = oracle().sample(KEY, (6,))
    names = registry.some(SCHEDULES, DIVERGENCES.index(divergence), 4)
    for name in names:
        exact = oracle().model(registry.Chosen(name, names))
        got = frx.log_prob(exact, x, divergence=divergence, key=KEY, rtol=1e-6, atol=1e-6)
        want = oracle().marginal_log_prob(SCHEDULES[name], jnp.asarray(1.0), x)
        room = 1e-3 + 5 * np.asarray(got.standard_error)
        assert np.all(np.abs(np.asarray(got.value - want)) <= room), name


def test_every_schedule_is_met():
    """By two flow solvers, and by one solver of the reverse SDE, dynamics, coefficient and divergence."""
    for kind, least in ((FLOW_SOLVERS, 2), (NOISE_SOLVERS, 1), (ROUTES, 1)):
        met = [name for turn in range(len(kind)) for name in registry.some(SCHEDULES, turn)]
        assert min(met.count(name) for name in NAMES) >= least
    assert {schedule for _, schedule in registry.PAIRS} == set(NAMES)
    assert {name for turn in range(len(DIVERGENCES)) for name in registry.some(SCHEDULES, turn, 4)} == set(NAMES)
