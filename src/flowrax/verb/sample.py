"""`sample`: draw from a model, by any dynamics and any diffrax solver, each sample with its own step size."""

import functools
import operator
from collections.abc import Mapping
from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp

from .._base.arguments import checked
from .._base.checks import check_count
from .._base.condition import Batched, cast_condition, split_condition
from .._base.random import as_threefry
from .._base.result import Samples, raise_if_failed
from .._base.typing import Array, Batch, BatchLike, Condition, Event, Integer, KeyArray, KeyLike, PyTree
from ..discrete.base import AbstractSampler
from ..discrete.sampling import sample_discretely
from ..divergence import AbstractDivergence, Exact
from ..dynamics.base import AbstractDynamics
from ..engine import (
    Grid,
    ProgressLike,
    Solved,
    SolveSpec,
    isolate_rows,
    mark_nonfinite,
    on_each_device,
    shard_rows,
    solve,
)
from ..model.base import AbstractContinuousModel, AbstractModel
from ..prior import bind_row, check_range
from .augmented import augmented_state
from .last_step import AbstractLastStep
from .options import ModelEquation, SolveOptions, Start, check_model, check_moves, default_dynamics
from .resolution import warned_if_unresolved
from .shared_condition import check_shared


@checked
def sample(
    model: AbstractModel,
    key: KeyLike,
    num_samples: Integer,
    *,
    condition: Condition | Batched = None,
    x0: BatchLike | Mapping[str, BatchLike] | None = None,
    dynamics: AbstractDynamics | AbstractSampler | None = None,
    solver: dfx.AbstractSolver | None = None,
    rtol: float | Array | None = None,
    atol: float | Array | None = None,
    grid: Grid | None = None,
    stepsize_controller: dfx.AbstractStepSizeController | None = None,
    adjoint: dfx.AbstractAdjoint | None = None,
    saveat: dfx.SaveAt | None = None,
    lanes: Integer | None = None,
    last_step: AbstractLastStep | None = None,
    with_log_prob: bool = False,
    divergence: AbstractDivergence | None = None,
    max_steps: Integer | None = None,
    progress: ProgressLike = False,
    throw: bool = True,
) -> Samples:
    """Draws from the model's distribution at the end of the dynamics' interval (`t_max` for the probability flow).

    **Arguments:**

    - `model`: the model to draw from.
    - `key`: one key, `jax.random.key(seed)`; sample `i` draws from `fold_in(key, i)` only, whatever the other samples
        do. A key of another implementation than threefry is first turned into a threefry key.
    - `num_samples`: `n`.
    - `condition`: one condition for all samples, or `Batched(c)` with a leading axis `n` on every leaf.
    - `x0`: `(n, *event)`, the states to start from in place of draws from the source; already scaled, as
        `LogProb.x0`. If its rows are split over devices (by its sharding), each device solves its own rows.
    - `dynamics`: `ReverseSDE(...)`, `Langevin(...)`, ... Default: `ProbabilityFlow()`; for categorical and joint models
        the model's default sampler.
    - `solver`: a diffrax solver that fits the dynamics. Default: the dynamics' own; for the flow `Dopri5()`.
    - `rtol`, `atol`: tolerances of each sample's error per step. Default: the dynamics' `default_tolerance` for both.
        `atol` is in units of the state: coordinates that vary by less than it are not resolved, and a warning says so
        where the draws show it. Pass an `atol` of about a hundredth of the smallest spread, or rescale the data.
    - `grid`: a number of equal steps or the `(k + 1,)` times of fixed ones, in place of tolerances.
    - `stepsize_controller`: a diffrax controller, in place of tolerances.
    - `adjoint`: a diffrax adjoint. Default: the exact gradient of the accepted steps with respect to the leaves of
        model, condition and `x0` (a network that closes over an array instead of holding it needs an adjoint).
    - `saveat`: a `diffrax.SaveAt(ts=...)` (or `steps=True`), which fills `Samples.trajectory` and `Samples.times`.
    - `lanes`: how many samples advance together; bounds memory. Default: 1,024 on CPU and 8,192 on GPU for adaptive
        steps, all samples on a grid.
    - `last_step`: applied to the end state, such as [`Tweedie`][]; refused with `with_log_prob`.
    - `with_log_prob`: whether to solve for the log-density of each sample too; probability flow only.
    - `divergence`: the estimator of the divergence for `with_log_prob`. Default: [`Exact`][].
    - `max_steps`: the limit of attempted steps in each adaptive solve. Default: 4,096.
    - `progress`: True, or a diffrax progress meter.
    - `throw`: whether a failed solve raises; otherwise its row is NaN and carries its code.

    **Returns:** [`Samples`][].

    **Raises:** `ValueError` for a bad argument, [`SolveError`][] for a failed solve. Inside `jit` a failed solve raises
    an error of JAX's, whose long text holds one sentence of ours; `throw=False` and `Samples.result` are shorter.
    """
    options = SolveOptions(
        solver=solver,
        rtol=rtol,
        atol=atol,
        grid=grid,
        stepsize_controller=stepsize_controller,
        adjoint=adjoint,
        saveat=saveat,
        lanes=lanes,
        last_step=last_step,
        with_log_prob=with_log_prob,
        divergence=divergence,
        max_steps=max_steps,
        progress=progress,
    )
    check_model(model, "sample")
    dynamics, key = default_dynamics(model) if dynamics is None else dynamics, as_threefry(key)
    check_moves(model, dynamics)
    check_shared(model, condition, num_samples := check_count("num_samples", num_samples))
    if isinstance(dynamics, AbstractSampler):
        options.check_sampler(dynamics)
        return sample_discretely(
            model, key, num_samples, dynamics, condition, x0, grid, saveat, options.lanes, progress, throw=throw
        )
    assert isinstance(model, AbstractContinuousModel)
    options.check_density(dynamics)
    carried = (Exact() if divergence is None else divergence) if with_log_prob else None
    spec = options.resolve(model, dynamics, carried)
    options.check_memory(model, spec, num_samples)
    condition, start = check_starts(model, num_samples, condition, x0)
    shared, rows = split_condition(condition)
    equation = ModelEquation(dynamics, carried, model, shared)
    rows, placement = shard_rows((start, rows), (equation, spec))
    answer = on_each_device(solve_samples, placement, num_samples, (equation, spec, last_step, key), rows)
    answer = raise_if_failed("sample", answer, answer.result, spec.stepping.max_steps) if throw else answer
    return answer if x0 is not None else warned_if_unresolved(answer, spec.stepping.controller)


def check_starts(
    model: AbstractContinuousModel, num_samples: int, condition: Condition | Batched, x0: Any
) -> tuple[Condition | Batched, Batch | None]:
    """The condition and the states to start from as arrays of the model's dtype; raises `ValueError` for bad ones."""
    condition = cast_condition(condition, model.dtype, num_samples)
    if x0 is None:
        return condition, None
    start = model.events("x0", x0, num_samples)
    check_range("x0", model.prior, start, condition)
    return condition, start


class Drawn(eqx.Module):
    """The start of one sample's solve."""

    log_density: Array | None
    state: PyTree
    own: Start


def draw_start(equation: ModelEquation, key: KeyArray, index: Array, x0: Event | None, row: PyTree) -> Drawn:
    """Draws the start of sample number `index`."""
    source_key, noise_key, state_key, probe_key = jax.random.split(jax.random.fold_in(key, index), 4)
    model, _ = bind_row(equation.model, equation.condition, row)
    source, divergence = equation.dynamics.source(model), equation.divergence
    x: Event = source.draw(source_key) if x0 is None else x0
    if divergence is None:
        return Drawn(None, equation.dynamics.initial(x, state_key), Start(noise_key, None, row))
    own = Start(noise_key, divergence.probes(probe_key, x), row)
    # A start that is not finite fails, and its density must not send NaN back to the source.
    density = source.log_density(jnp.where(jnp.isfinite(x), x, 0))
    return Drawn(density, augmented_state(divergence, x), own)


def solve_samples(
    shared: tuple[ModelEquation, SolveSpec, AbstractLastStep | None, KeyArray],
    rows: tuple[Batch | None, PyTree],
    index: Array,
) -> Samples:
    """The samples number `index`, drawn and solved."""
    equation, spec, last_step, key = shared
    start = jax.vmap(functools.partial(draw_start, equation, key))(index, *rows)
    solved = solve(equation, (start.state, start.own), spec)
    return _answer(equation, spec, last_step, start, solved)


def _answer(
    equation: ModelEquation, spec: SolveSpec, last_step: AbstractLastStep | None, start: Drawn, solved: Solved
) -> Samples:
    dynamics, divergence, stats, result = equation.dynamics, equation.divergence, solved.stats, solved.result
    readout = dynamics.readout if divergence is None else operator.itemgetter(0)
    x, log_prob, error = jax.vmap(readout)(solved.y), None, None
    if divergence is not None and start.log_density is not None:
        change = solved.y[1]
        log_prob = start.log_density + jnp.mean(change, axis=-1)
        error = divergence.standard_error(change)
    if last_step is not None:
        end = spec.stepping.end
        end = jnp.asarray(dynamics.path_time(equation.model, end), end.dtype)

        def finish(shared: tuple[ModelEquation, AbstractLastStep, Array], rows: tuple[Batch, PyTree]) -> Batch:
            equation, step, end = shared

            def one(x: Event, row: PyTree) -> Event:
                model, condition = bind_row(equation.model, equation.condition, row)
                return step(model, end, x, condition)

            return jax.vmap(one)(*rows)

        x, result = mark_nonfinite(isolate_rows(((equation, last_step, end), (x, start.own.row)), finish), result)
        stats = eqx.tree_at(lambda stats: stats.num_evaluations, stats, stats.num_evaluations + 1)
    times, trajectory = None, None
    if solved.saved is not None:
        times, trajectory = solved.saved.times, jax.vmap(jax.vmap(readout))(solved.saved.values)
    return Samples(x, log_prob, error, trajectory, times, stats, result)
