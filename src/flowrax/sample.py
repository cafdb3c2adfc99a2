"""`sample`: draw from a model, by any dynamics and any diffrax solver, each sample with its own step size."""

from collections.abc import Mapping
from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx

from ._condition import Batched, cast_condition, split_condition
from ._result import Samples, raise_if_failed
from ._typing import Array, Batch, BatchLike, Condition, Event, KeyArray, PyTree
from .abstract import AbstractContinuousModel, AbstractDynamics, AbstractModel, AbstractMoves
from .divergence import AbstractDivergence, Exact
from .engine import (
    Grid,
    Placement,
    ProgressLike,
    Solved,
    Stepping,
    check_saveat,
    make_noise,
    make_stepping,
    on_each_device,
    place,
    solve,
)
from .last_step import AbstractLastStep
from .likelihood import augmented_solver, augmented_state, augmented_terms, likelihood_norm
from .prior import AbstractPrior, check_range, row_of
from .sample_moves import check_unused, sample_by_moves
from .stepper import check_predictions


def sample(
    model: AbstractModel,
    key: KeyArray,
    num_samples: int,
    *,
    condition: Condition | Batched = None,
    x0: BatchLike | Mapping[str, BatchLike] | None = None,
    dynamics: AbstractDynamics | AbstractMoves | None = None,
    solver: dfx.AbstractSolver | None = None,
    rtol: float | Array | None = None,
    atol: float | Array | None = None,
    grid: Grid | None = None,
    stepsize_controller: dfx.AbstractStepSizeController | None = None,
    adjoint: dfx.AbstractAdjoint | None = None,
    saveat: dfx.SaveAt | None = None,
    lanes: int | None = None,
    last_step: AbstractLastStep | None = None,
    with_log_prob: bool = False,
    divergence: AbstractDivergence | None = None,
    max_steps: int = 4096,
    progress: ProgressLike = False,
    throw: bool = True,
) -> Samples:
    """Draws from the model's law at the end of the dynamics' interval (`t_max` for the probability flow).

    **Arguments:**

    - `model`: what to draw from.
    - `key`: sample `i` draws from `fold_in(key, i)` only, whatever the others do.
    - `num_samples`: `n`.
    - `condition`: one condition for all samples, or `Batched(c)` with a leading axis `n` on every leaf.
    - `x0`: `(n, *event)`, the states to start from instead of draws from the source;
        already scaled, as `LogProb.latent`. Split over devices (its sharding), each device solves its own rows.
    - `dynamics`: the probability flow without; or `ReverseSDE(...)`, `Langevin(...)`, ...
    - `solver`: any diffrax solver that fits the dynamics.
    - `rtol`, `atol`: of the error per step of each sample; the dynamics' `default_tolerance` without.
    - `grid`: instead, a number of equal steps or the `(k + 1,)` times of fixed ones.
    - `stepsize_controller`: instead, a diffrax controller.
    - `adjoint`: a diffrax adjoint; without, the exact gradient of the accepted steps with respect to the leaves of
        model, condition and `x0` (a network that closes over an array instead of holding it needs an adjoint).
    - `saveat`: a `diffrax.SaveAt(ts=...)` (or `steps=True`) fills `Samples.trajectory` and `Samples.times`.
    - `lanes`: samples stepped at once, which bounds memory; without, by device for adaptive steps, all on a grid.
    - `last_step`: what to do with the end state, such as [`Tweedie`][]; refused with `with_log_prob`.
    - `with_log_prob`: whether to solve for the log-density of each sample too; probability flow only.
    - `divergence`: for that, [`Exact`][] without.
    - `max_steps`: of each adaptive solve.
    - `progress`: True, or a diffrax progress meter.
    - `throw`: whether a failed solve raises; otherwise its row is NaN and carries its code.

    **Returns:** [`Samples`][].

    **Raises:** `ValueError` for a bad argument, [`SolveError`][] for a failed solve.
    """
    dynamics = model.default_dynamics if dynamics is None else dynamics
    if isinstance(dynamics, AbstractMoves):
        of_a_solve = {"solver": solver, "rtol": rtol, "atol": atol, "stepsize_controller": stepsize_controller}
        of_a_solve |= {"adjoint": adjoint, "last_step": last_step, "divergence": divergence}
        check_unused(dynamics, of_a_solve | {"with_log_prob": with_log_prob or None})
        options = {"condition": condition, "x0": x0, "grid": grid, "saveat": saveat, "lanes": lanes}
        return sample_by_moves(model, key, num_samples, dynamics, **options, progress=progress, throw=throw)
    if not isinstance(model, AbstractContinuousModel):
        raise ValueError(f"{type(dynamics).__name__} moves continuous events; {type(model).__name__} has none.")
    _check_density(dynamics, with_log_prob, divergence, last_step)
    condition, start = _check_rows(model, num_samples, condition, x0)
    solver, interval = dynamics.stepper(solver), dynamics.interval(model)
    _check_solver(model, dynamics, solver, last_step, interval)
    if with_log_prob:
        divergence = Exact() if divergence is None else divergence
        solver = augmented_solver(divergence, solver)
    tolerances = {"rtol": rtol, "atol": atol, "controller": stepsize_controller, "grid": grid, "max_steps": max_steps}
    norm = likelihood_norm if with_log_prob else optx.rms_norm
    stepping = make_stepping(
        interval,
        solver,
        model.dtype,
        **tolerances,
        default_tolerance=dynamics.default_tolerance,
        norm=norm,
        stochastic=not dynamics.keeps_density,
    )
    kept = check_saveat(saveat, stepping)
    plan = _Plan(dynamics, divergence, last_step, solver, stepping, kept, adjoint, progress)
    shared, rows = split_condition(condition)
    rows, placement = place((start, rows), (model, plan, shared))
    answer = _sample(plan, model, key, num_samples, shared, rows, lanes, placement)
    return raise_if_failed("sample", answer, answer.result, stepping.max_steps) if throw else answer


class _Plan(eqx.Module):
    """How every sample is drawn: what the compiler sees of the arguments of `sample`."""

    dynamics: AbstractDynamics
    divergence: AbstractDivergence | None
    last_step: AbstractLastStep | None
    solver: dfx.AbstractSolver
    stepping: Stepping
    saveat: dfx.SaveAt | None
    adjoint: dfx.AbstractAdjoint | None
    progress: ProgressLike

    def start(self, x0: Event | None, source: AbstractPrior, key: KeyArray) -> "_Start":
        """One sample before its solve."""
        source_key, noise_key, state_key, probe_key = jax.random.split(key, 4)
        x: Event = source.draw(source_key) if x0 is None else x0
        if self.divergence is None:
            return _Start(x, self.dynamics.initial(x, state_key), noise_key, None)
        return _Start(x, augmented_state(self.divergence, x), noise_key, self.divergence.probes(probe_key, x))

    def readout(self, state: PyTree) -> Event:
        """The event in a state."""
        return self.dynamics.readout(state) if self.divergence is None else state[0]


class _Start(eqx.Module):
    x0: Event
    state: PyTree
    noise_key: KeyArray
    probes: PyTree


def _field(shared: tuple[_Plan, AbstractContinuousModel, Condition], start: PyTree) -> tuple[Any, PyTree]:
    """The terms of one sample, and their arguments."""
    plan, model, condition = shared
    _, (noise_key, probes, row) = start
    model, condition = row_of(model, condition, row)
    if plan.divergence is not None:
        return augmented_terms(plan.divergence, probes), (model, condition)
    noise = make_noise(plan.stepping, plan.solver, noise_key, model.dtype)
    return plan.dynamics.terms(model, condition, noise)


def _source(plan: _Plan, model: AbstractContinuousModel, condition: Condition, row: PyTree) -> AbstractPrior:
    return plan.dynamics.source(row_of(model, condition, row)[0])


def _check_rows(
    model: AbstractContinuousModel, num_samples: int, condition: Condition | Batched, x0: Any
) -> tuple[Condition | Batched, Batch | None]:
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1; got {num_samples}.")
    condition = cast_condition(condition, model.dtype, num_samples)
    if x0 is None:
        return condition, None
    start = model.events("x0", x0, num_samples)
    check_range("x0", model.prior, start, condition)
    return condition, start


def _check_density(
    dynamics: AbstractDynamics,
    with_log_prob: bool,
    divergence: AbstractDivergence | None,
    last_step: AbstractLastStep | None,
) -> None:
    if not with_log_prob:
        if divergence is not None:
            raise ValueError("divergence is used with with_log_prob=True only.")
        return
    if not dynamics.keeps_density:
        raise ValueError(
            f"with_log_prob=True needs the probability flow; {type(dynamics).__name__} carries no density."
        )
    if last_step is not None:
        raise ValueError("last_step changes the law of the samples; it cannot go with with_log_prob=True.")


def _check_solver(
    model: AbstractContinuousModel,
    dynamics: AbstractDynamics,
    solver: dfx.AbstractSolver,
    last_step: AbstractLastStep | None,
    interval: tuple[float, float],
) -> None:
    start, end = (dynamics.path_time(model, t) for t in interval)
    check_predictions(solver, model, start, end)
    if last_step is not None:
        last_step.check(model, end)
    if dynamics.calculus is not None and not isinstance(solver, dynamics.calculus):
        reading = "Ito" if dynamics.calculus is dfx.AbstractItoSolver else "Stratonovich"
        raise ValueError(
            f"{type(dynamics).__name__} has state-dependent diffusion in the {reading} sense, "
            f"but {type(solver).__name__} converges to the other; pass a solver of diffrax's {reading} kind."
        )


@eqx.filter_jit
def _sample(
    plan: _Plan,
    model: AbstractContinuousModel,
    key: KeyArray,
    num_samples: int,
    condition: Condition,
    rows: tuple[Batch | None, PyTree],
    lanes: int | None,
    placement: Placement | None,
) -> Samples:
    def draw(shared: PyTree, rows: PyTree, index: Array) -> Samples:
        (plan, model, condition, key), (x0, rows) = shared, rows
        start = jax.vmap(
            lambda i, x0, row: plan.start(x0, _source(plan, model, condition, row), jax.random.fold_in(key, i))
        )(index, x0, rows)
        solved = solve(
            _field,
            (plan, model, condition),
            (start.state, (start.noise_key, start.probes, rows)),
            solver=plan.solver,
            stepping=plan.stepping,
            lanes=lanes,
            saveat=plan.saveat,
            adjoint=plan.adjoint,
            progress=plan.progress,
        )
        return _answer(plan, model, condition, rows, start, solved)

    shared = plan, model, condition, key
    return on_each_device(draw, placement, num_samples, shared, rows)


def _answer(
    plan: _Plan,
    model: AbstractContinuousModel,
    condition: Condition,
    rows: PyTree,
    start: _Start,
    solved: Solved,
) -> Samples:
    x, stats, log_prob, error = jax.vmap(plan.readout)(solved.y), solved.stats, None, None
    if plan.divergence is not None:
        change = solved.y[1]
        start_density = jax.vmap(lambda x, row: _source(plan, model, condition, row).log_density(x))(start.x0, rows)
        log_prob = start_density + jnp.mean(change, axis=-1)
        error = plan.divergence.standard_error(change)
    if plan.last_step is not None:
        last_step, end = plan.last_step, plan.stepping.end
        end = jnp.asarray(plan.dynamics.path_time(model, end), end.dtype)

        def finish(x: Event, row: PyTree) -> Event:
            own, own_condition = row_of(model, condition, row)
            return last_step(own, end, x, own_condition)

        x = jax.vmap(finish)(x, rows)
        stats = eqx.tree_at(lambda stats: stats.num_evaluations, stats, stats.num_evaluations + 1)
    times, trajectory = None, None
    if solved.saved is not None:
        times, trajectory = solved.saved.times, jax.vmap(jax.vmap(plan.readout))(solved.saved.values)
    return Samples(x, log_prob, error, trajectory, times, stats, solved.result)
