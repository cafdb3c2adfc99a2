"""The engine: many samples on few lanes, each as if it were alone, and the exact gradient of what it did."""

import functools
import math

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowrax as frx
from flowrax.engine import AbstractEquation, SolveSpec, make_stepping, record, solve
from solving import CONTROLLER, KEY, draw, problem


def uneven(t, x, condition):
    """Stiffer far from zero, with a full Jacobian."""
    return jnp.cos(4 * t * x) - x * jnp.sum(x**2)


@pytest.mark.accuracy
def test_a_sample_does_not_depend_on_lanes_or_neighbours(x64):
    """The same draws and steps; values to 1e-9: products round otherwise in another batch, and a flow amplifies it."""
    model = frx.Model(uneven, frx.Linear(), shape=(2,), dtype=jnp.float64)
    options = dict(with_log_prob=True, rtol=1e-6, atol=1e-6)
    whole = frx.sample(model, KEY, 40, **options)
    for lanes in (1, 7):
        other = frx.sample(model, KEY, 40, lanes=lanes, **options)
        assert np.array_equal(other.stats.num_steps, whole.stats.num_steps)
        assert np.allclose(other.x, whole.x, rtol=0, atol=1e-9)
        assert np.allclose(other.log_prob, whole.log_prob, rtol=0, atol=1e-9)
    # More lanes than samples.
    fewer = frx.sample(model, KEY, 11, lanes=12, **options)
    assert np.allclose(fewer.x, whole.x[:11], rtol=0, atol=1e-9)
    assert int(whole.stats.num_steps.max()) > int(whole.stats.num_steps.min())


@pytest.mark.accuracy
def test_order_does_not_matter(x64):
    """Rows, with their conditions, in another order give the same answers in that order."""
    model, x0, condition = problem()
    order = np.asarray([3, 1, 5, 0, 2, 4])
    straight = draw((model, x0, condition), lanes=2)
    shuffled = draw((model, x0[order], condition[order]), lanes=3)
    assert np.allclose(shuffled.x, straight.x[order], rtol=0, atol=1e-13)
    assert np.array_equal(shuffled.stats.num_steps, straight.stats.num_steps[order])


GRID, ADAPTIVE = dict(grid=8), dict(stepsize_controller=CONTROLLER)
TRAJECTORIES = {
    "ts-adaptive": (dfx.SaveAt(ts=np.linspace(0, 1, 7)), ADAPTIVE),
    "ends and ts-grid": (dfx.SaveAt(t0=True, ts=np.asarray([0.3, 0.30001, 0.9]), t1=True), GRID),
    "ends and ts-adaptive": (dfx.SaveAt(t0=True, ts=np.asarray([0.3, 0.30001, 0.9]), t1=True), ADAPTIVE),
    "steps-adaptive": (dfx.SaveAt(t0=True, steps=True), ADAPTIVE),
    "every third step-grid": (dfx.SaveAt(steps=3, t1=True), GRID),
    "every third step-adaptive": (dfx.SaveAt(steps=3, t1=True), ADAPTIVE),
}


@pytest.mark.accuracy
@pytest.mark.parametrize("case", TRAJECTORIES)
def test_trajectories_are_those_of_diffeqsolve(case, x64):
    """Interpolated to the error of the steps; on a grid, and where every step is kept, the same steps.

    The rest of the saving on a grid is that of the gradients below.
    """
    saveat, stepping = TRAJECTORIES[case]
    ours = draw(problem(), saveat=saveat, max_steps=60, **({} if "grid" in stepping else dict(lanes=2)), **stepping)
    want = draw(problem(), saveat=saveat, max_steps=60, adjoint=dfx.DirectAdjoint(), **stepping)
    on_grid = "grid" in stepping
    if on_grid or saveat.subs.ts is not None:
        assert np.allclose(ours.times, want.times, rtol=0, atol=1e-12)
        assert np.allclose(ours.trajectory, want.trajectory, rtol=0, atol=1e-12 if on_grid else 1e-7)
        return
    # Another first step, hence other steps: of the same solution, up to where it ends.
    count = np.sum(np.isfinite(ours.times), axis=1)
    taken = np.asarray(ours.stats.num_steps - ours.stats.num_rejected)
    wanted = taken + 1 if saveat.subs.steps == 1 else -(-taken // 3)
    assert np.array_equal(count, wanted)
    for row, times, path, num in zip(ours.x, ours.times, ours.trajectory, count, strict=True):
        assert np.all(np.diff(times[:num]) > 0) and times[num - 1] == 1
        assert np.array_equal(path[num - 1], row)


def loss(arguments, **options):
    """Of all that a solve returns."""
    answer = draw(arguments, **options)
    total = jnp.sum(jnp.sin(answer.x))
    if answer.trajectory is not None:
        weights = jnp.arange(1.0, answer.trajectory.shape[1] + 1)[None, :, None]
        total = total + jnp.sum(jnp.where(jnp.isfinite(answer.trajectory), weights * jnp.cos(answer.trajectory), 0))
    return total


def gradient_gap(one, other):
    leaves = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return max(float(jnp.max(jnp.abs(a - b)) / jnp.max(jnp.abs(b))) for a, b in leaves)


SAVEATS = {
    "end": None,
    "times": dfx.SaveAt(t0=True, ts=np.linspace(0, 1, 7), t1=True),
    "steps": dfx.SaveAt(t0=True, steps=True),
}


@pytest.mark.accuracy
@pytest.mark.parametrize(
    ("solver", "saveat"),
    [
        # Each solver interpolates in a way of its own.
        (dfx.Heun(), "times"),
        (dfx.Dopri5(), "times"),
        (dfx.ReversibleHeun(), "times"),
        (dfx.Dopri5(), "end"),
        (dfx.ReversibleHeun(), "steps"),
    ],
    ids=lambda v: v if isinstance(v, str) else type(v).__name__,
)
def test_gradient_on_a_grid_is_that_of_diffeqsolve(solver, saveat, x64):
    """To rounding, for parameters, starts and conditions; and so are the values."""
    options = dict(grid=9, solver=solver, saveat=SAVEATS[saveat])

    @eqx.filter_jit
    def both(arguments):
        adjoints = (None, dfx.DirectAdjoint())
        return [eqx.filter_value_and_grad(loss)(arguments, adjoint=adjoint, **options) for adjoint in adjoints]

    (value, ours), (same, want) = both(problem())
    assert np.isclose(value, same, rtol=1e-13)
    assert gradient_gap(ours, want) <= 1e-13


@pytest.mark.accuracy
@pytest.mark.parametrize("solver", [dfx.Dopri5(), dfx.ReversibleHeun()], ids=lambda s: type(s).__name__)
def test_adaptive_gradient_is_that_of_the_accepted_steps(solver, monkeypatch, x64):
    """One sample at a time on the grid of its own steps gives the same gradient, by diffrax's autodiff, to rounding.

    Whether all points are kept for the way back or, for want of memory, few.
    """
    model, x0, condition = problem(3)
    small = 1e-8 if isinstance(solver, dfx.Dopri5) else 1e-4
    options = dict(solver=solver, rtol=small, atol=small)
    kept = draw((model, x0, condition), saveat=dfx.SaveAt(t0=True, steps=True), max_steps=200, **options)
    assert np.unique(kept.stats.num_steps).size > 1

    def frozen(arguments):
        model, x0, condition = arguments
        parts = []
        for i, times in enumerate(np.asarray(kept.times)):
            one = (model, x0[i : i + 1], condition[i : i + 1])
            grid = times[np.isfinite(times)]
            parts.append(loss(one, grid=grid, solver=solver, adjoint=dfx.DirectAdjoint()))
        return sum(parts)

    want = eqx.filter_jit(eqx.filter_grad(frozen))((model, x0, condition))
    # Another limit of steps each, so that the second budget is not passed by in the first one's program.
    for budget, max_steps in ((record._BUDGET, 201), (0, 200)):
        monkeypatch.setattr(record, "_BUDGET", budget)
        value = functools.partial(loss, lanes=2, max_steps=max_steps, **options)
        assert gradient_gap(eqx.filter_jit(eqx.filter_grad(value))((model, x0, condition)), want) <= 1e-12


class Decay(AbstractEquation):
    """dy/dt = -k r t y, with a factor k that all samples share and a rate r for each."""

    factor: jax.Array

    def bind(self, start, solver, stepping):
        return dfx.ODETerm(lambda t, y, args: -args * t * y), self.factor * start[1]


@pytest.mark.accuracy
@pytest.mark.parametrize(("lanes", "interval"), [(None, (0.0, 2.0)), (2, (2.0, 0.0)), (2, (-1.0, 0.5))])
def test_forward_and_backward_in_time(lanes, interval, x64):
    rates, y0 = jnp.linspace(0.1, 4, 9), jnp.ones(9)
    stepping = make_stepping(
        interval,
        dfx.Tsit5(),
        jnp.float64,
        rtol=1e-10,
        atol=1e-10,
        controller=None,
        grid=None,
        max_steps=1000,
        default_tolerance=1e-5,
        norm=lambda y: jnp.max(jnp.abs(y)),
    )

    def end(shared, y0):
        return solve(Decay(shared), (y0, rates), SolveSpec(dfx.Tsit5(), stepping, lanes=lanes)).y

    factor = np.exp(-rates * (interval[1] ** 2 - interval[0] ** 2) / 2)
    assert np.allclose(jax.jit(end)(jnp.asarray(1.0), y0), factor, rtol=1e-8)
    shared_bar, y_bar = jax.jit(jax.grad(lambda s, y: jnp.sum(end(s, y)), argnums=(0, 1)))(jnp.asarray(1.0), y0)
    assert np.allclose(y_bar, factor, rtol=1e-7)
    assert np.isclose(shared_bar, np.sum(factor * np.log(factor)), rtol=1e-7)


@pytest.mark.accuracy
def test_steps_clipped_to_given_times(x64):
    """diffrax's clipping controller, in both directions: every wanted time is the end of a step."""
    controller = dfx.ClipStepSizeController(CONTROLLER, step_ts=np.asarray([0.25, 0.5]), jump_ts=np.asarray([0.7]))
    saveat = dfx.SaveAt(steps=True)
    answer = draw(problem(), stepsize_controller=controller, saveat=saveat, max_steps=80, lanes=4)
    want = draw(problem(), stepsize_controller=CONTROLLER, with_log_prob=True)
    for times in np.asarray(answer.times):
        assert {0.25, 0.5} <= set(times) and np.min(np.abs(times - 0.7)) < 1e-12
    assert np.allclose(answer.x, want.x, rtol=0, atol=1e-7)
    gradient = eqx.filter_jit(eqx.filter_grad(loss))
    ours = gradient(problem(), stepsize_controller=controller, max_steps=80, lanes=4)
    assert gradient_gap(ours, gradient(problem(), stepsize_controller=CONTROLLER)) <= 1e-6
    # The draws without clipping come with the densities that the way back with it must find.
    condition = frx.Batched(problem()[2])
    back = frx.log_prob(problem()[0], jnp.asarray(want.x), condition=condition, stepsize_controller=controller)
    assert np.allclose(want.log_prob, back.value, rtol=0, atol=1e-7)


@pytest.mark.accuracy
def test_a_sample_that_becomes_nan_is_given_up_soon():
    """It does not use up its steps, and the others have their answer and their gradient."""
    model = frx.Model(lambda t, x, c: jnp.where(x[:1] > 5, jnp.nan, -x * c), frx.Linear(), shape=(2,))
    x0 = jnp.asarray([[1.0, 2.0], [9.0, 2.0], [0.5, 1.0]])

    def total(c):
        answer = frx.sample(model, KEY, 3, x0=x0, condition=c, throw=False)
        return jnp.sum(jnp.where(jnp.isnan(answer.x), 0, answer.x)), answer

    slope, answer = jax.jit(jax.grad(total, has_aux=True))(jnp.asarray(2.0))
    assert np.array_equal(np.isnan(answer.x[:, 0]), [False, True, False])
    assert int(answer.stats.num_steps[1]) < 30
    # x(1) = x0 exp(-c).
    assert np.isclose(slope, -4.5 * math.exp(-2), rtol=1e-4)


def test_each_sample_has_an_error_control_of_its_own(x64):
    """A hard sample among many easy ones is as accurate as alone, and the easy ones take no more steps for it."""
    model = frx.Model(lambda t, x, c: -c * (x - jnp.cos(3 * t)), frx.Linear(), shape=(1,), dtype=jnp.float64)
    rates, x0 = jnp.ones((64, 1)).at[11].set(300.0), jnp.ones((64, 1))
    together = frx.sample(model, KEY, 64, x0=x0, condition=frx.Batched(rates))
    alone = frx.sample(model, KEY, 1, x0=x0[:1], condition=frx.Batched(rates[11:12]))
    assert np.allclose(together.x[11], alone.x[0], rtol=0, atol=1e-12)
    assert int(together.stats.num_steps[11]) > 4 * int(together.stats.num_steps[10])
