"""Many solves at once, each sample with its own step size and its own error control.

Without an adjoint the steps of a grid are taken by all samples together, adaptive ones on lanes that are refilled, and
the gradient goes back through the accepted steps. With a diffrax adjoint, `diffeqsolve` is mapped over the samples.
"""

import importlib.util
from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp

from .._result import RESULTS, Stats
from .._typing import Array, DType, PyTree
from .fixed import solve_fixed
from .lanes import Outcome, solve_lanes
from .problem import Field, Problem, select
from .record import Record
from .replay import Cotangents, pull_back
from .saving import Saved, Saver, make_saver
from .stepping import Stepping, evaluations_per_step

ProgressLike = bool | dfx.AbstractProgressMeter

_NONFINITE: Any = RESULTS.nonfinite

# Lanes where the caller names no number: enough rows to fill the device (measured on two cores, where fewer leave one
# of them idle; not on accelerators), few enough to be refilled often.
_LANES = {"cpu": 1024, "gpu": 8192, "tpu": 8192}


class Solved(eqx.Module):
    """The answers of `solve`, with a leading axis `n`; a sample that failed is NaN, as is what is saved of it."""

    y: PyTree
    saved: Saved | None
    stats: Stats
    result: RESULTS


def default_lanes() -> int:
    """How many samples are stepped at once on this device."""
    return _LANES.get(jax.default_backend(), 1024)


def solve(
    field: Field,
    shared: PyTree,
    starts: tuple[PyTree, PyTree],
    *,
    solver: dfx.AbstractSolver,
    stepping: Stepping,
    lanes: int | None,
    saveat: dfx.SaveAt | None,
    adjoint: dfx.AbstractAdjoint | None,
    progress: ProgressLike,
) -> Solved:
    """Solves every sample of `starts`.

    **Arguments:**

    - `field`: `field(shared, start)` is one sample's diffrax terms and their arguments; it closes over no array.
    - `shared`: what all samples have in common; differentiable.
    - `starts`: `(state, data)`, each leaf with a leading axis `n`; differentiable.
    - `solver`, `stepping`: how to advance.
    - `lanes`: samples stepped at once; by device without.
    - `saveat`: what to keep on the way.
    - `adjoint`: a diffrax adjoint, or None.
    - `progress`: True or a diffrax progress meter.

    **Returns:** [`Solved`][].
    """
    if lanes is not None and lanes < 1:
        raise ValueError(f"lanes must be at least 1; got {lanes}.")
    # The error control is no part of the discrete solve that is differentiated.
    stepping = eqx.tree_at(lambda s: s.controller, stepping, _constant(stepping.controller))
    starts = (_at_least(stepping.start.dtype, starts[0]), starts[1])
    problem, saver, meter = Problem(field, solver, stepping), make_saver(saveat, stepping), make_meter(progress)
    if adjoint is None:
        options = _Options(problem, saver, meter, _num_lanes(stepping, starts, lanes))
        outcome = _replayed((shared, starts), options)
    else:
        outcome = _mapped(problem, saveat, shared, starts, adjoint, meter, lanes)
    finite = _finite_rows(outcome.y)
    result = _where(~finite & (outcome.result == RESULTS.successful), _NONFINITE, outcome.result)
    good = result == RESULTS.successful
    stats = Stats(
        num_steps=outcome.num_steps,
        num_rejected=outcome.num_steps - outcome.num_accepted,
        num_evaluations=outcome.num_steps * evaluations_per_step(solver),
    )
    saved = outcome.saved
    if saved is not None:
        saved = Saved(saved.times, _good_rows(good, saved.values))
    return Solved(_good_rows(good, outcome.y), saved, stats, result)


def _finite_rows(tree: PyTree) -> Array:
    finite = jax.tree.map(lambda leaf: jnp.all(jnp.isfinite(leaf.reshape(leaf.shape[0], -1)), axis=1), tree)
    return jax.tree.reduce(jnp.logical_and, finite)


def _good_rows(good: Array, tree: PyTree) -> PyTree:
    """Rows that are not good become NaN."""
    arrays, others = eqx.partition(tree, eqx.is_inexact_array)
    nan = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), arrays)
    return eqx.combine(select(good, arrays, nan), others)


def _constant(tree: PyTree) -> PyTree:
    arrays, others = eqx.partition(tree, eqx.is_inexact_array)
    return eqx.combine(jax.lax.stop_gradient(arrays), others)


def _at_least(dtype: DType, tree: PyTree) -> PyTree:
    """States of a lower precision than time are stepped in that of time, as `diffeqsolve` does."""
    bits = jnp.finfo(dtype).bits
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if jnp.finfo(leaf.dtype).bits < bits else leaf, tree)


def _where(condition: Array, yes: RESULTS, no: RESULTS) -> RESULTS:
    return jax.vmap(lambda condition, no: RESULTS.where(condition, yes, no))(condition, no)


def _num_lanes(stepping: Stepping, starts: PyTree, lanes: int | None) -> int:
    n = jax.tree.leaves(starts[0])[0].shape[0]
    if lanes is None:
        # On a grid all samples take the same steps.
        lanes = n if stepping.grid is not None else default_lanes()
    return min(lanes, n)


class _Options(eqx.Module):
    problem: Problem
    saver: Saver
    meter: dfx.AbstractProgressMeter
    lanes: int = eqx.field(static=True)


def _forward(arguments: PyTree, options: _Options, recording: bool) -> tuple[Outcome, Record | None]:
    shared, starts = arguments
    o = options
    if o.problem.stepping.grid is None:
        return solve_lanes(o.problem, o.saver, shared, starts, lanes=o.lanes, recording=recording, meter=o.meter)
    n = jax.tree.leaves(starts[0])[0].shape[0]
    if o.lanes >= n or recording:
        return solve_fixed(o.problem, o.saver, shared, starts, recording=recording, meter=o.meter)

    def one(start: PyTree) -> Outcome:
        alone = jax.tree.map(lambda leaf: leaf[None], start)
        outcome, _ = solve_fixed(o.problem, o.saver, shared, alone, recording=False, meter=o.meter)
        return jax.tree.map(lambda leaf: leaf[0], outcome)

    return jax.lax.map(one, starts, batch_size=o.lanes), None


@eqx.filter_custom_vjp
def _replayed(arguments: PyTree, options: _Options) -> Outcome:
    return _forward(arguments, options, recording=False)[0]


@_replayed.def_fwd
def _replayed_fwd(perturbed: PyTree, arguments: PyTree, options: _Options) -> tuple[Outcome, Any]:
    outcome, record = _forward(arguments, options, recording=True)
    good = (outcome.result == RESULTS.successful) & _finite_rows(outcome.y)
    counts = jnp.where(good, outcome.num_accepted, 0)
    return outcome, (record, counts, outcome.y, outcome.saved)


@_replayed.def_bwd
def _replayed_bwd(residuals: Any, given: Outcome, perturbed: PyTree, arguments: PyTree, options: _Options) -> PyTree:
    record, counts, y, saved = residuals
    end = _filled(given.y, y)
    good = counts > 0
    end = select(good, end, jax.tree.map(jnp.zeros_like, end))
    kept = None
    if given.saved is not None and jax.tree.leaves(given.saved.values):
        kept = _filled(given.saved.values, eqx.filter(saved.values, eqx.is_inexact_array))
    o, (shared, starts) = options, arguments
    return pull_back(o.problem, o.saver, shared, starts, perturbed, record, counts, Cotangents(end, kept), o.lanes)


def _filled(cotangents: PyTree, like: PyTree) -> PyTree:
    """Zeros where there is no cotangent."""
    zeros = jax.tree.map(jnp.zeros_like, like)
    return jax.tree.map(
        lambda ct, zero: zero if ct is None else ct, cotangents, zeros, is_leaf=lambda leaf: leaf is None
    )


def _mapped(
    problem: Problem,
    saveat: dfx.SaveAt | None,
    shared: PyTree,
    starts: PyTree,
    adjoint: dfx.AbstractAdjoint,
    meter: dfx.AbstractProgressMeter,
    lanes: int | None,
) -> Outcome:
    """`diffeqsolve` mapped over the samples, `lanes` at a time."""
    stepping = problem.stepping

    def one(start: PyTree) -> Outcome:
        terms, args = problem.field(shared, start)
        # Some adjoints, such as `BacksolveAdjoint`, take the end state alone.
        last = dfx.SubSaveAt(t1=True)
        solution = dfx.diffeqsolve(
            terms,
            problem.solver,
            stepping.start,
            stepping.end,
            None,
            start[0],
            args,
            saveat=dfx.SaveAt(subs=last if saveat is None else (last, saveat.subs)),
            stepsize_controller=stepping.controller,
            adjoint=adjoint,
            max_steps=stepping.max_steps,
            throw=False,
            progress_meter=meter,
        )
        assert solution.ys is not None and solution.ts is not None
        saved = None if saveat is None else Saved(solution.ts[1], solution.ys[1])
        end = jax.tree.map(lambda leaf: leaf[0], solution.ys if saveat is None else solution.ys[0])
        steps = jnp.asarray(solution.stats["num_steps"])
        return Outcome(end, saved, steps, jnp.asarray(solution.stats["num_accepted_steps"]), solution.result)

    return jax.vmap(one)(starts) if lanes is None else jax.lax.map(one, starts, batch_size=lanes)


def make_meter(progress: ProgressLike) -> dfx.AbstractProgressMeter:
    """The diffrax progress meter for `progress=` of a verb."""
    if isinstance(progress, dfx.AbstractProgressMeter):
        return progress
    if not progress:
        return dfx.NoProgressMeter()
    if importlib.util.find_spec("tqdm") is None:
        return dfx.TextProgressMeter()
    return dfx.TqdmProgressMeter()
