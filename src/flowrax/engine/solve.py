"""Many solves at once, each sample with its own step size and its own error control.

By default all samples take the steps of a grid together, adaptive steps run on lanes that are refilled, and the
gradient goes back through the accepted steps. With a diffrax adjoint, `diffeqsolve` is mapped over the samples.
"""

import dataclasses
import functools
import importlib.util
from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp

from .._base.result import NONFINITE, RESULTS, Stats
from .._base.typing import Array, DType, PyTree
from .batch import Batch, Method
from .bound_sample import AbstractEquation
from .isolation import finite_rows, isolate_row
from .lanes import Outcome, solve_lanes
from .on_grid import solve_fixed
from .replay import Cotangents, pull_back
from .saving import Saved, make_saver
from .stepping import Stepping, evaluations_per_step
from .trees import count_rows, select

ProgressLike = bool | dfx.AbstractProgressMeter

# The default number of lanes: enough rows to fill the device (measured on two cores, where fewer leave one of them
# idle; not measured on accelerators), few enough to be refilled often.
_LANES = {"cpu": 1024, "gpu": 8192, "tpu": 8192}


class SolveSpec(eqx.Module):
    """How to solve: made from the arguments of a verb, once they are checked."""

    solver: dfx.AbstractSolver
    stepping: Stepping
    saveat: dfx.SaveAt | None = None
    adjoint: dfx.AbstractAdjoint | None = None
    lanes: int | None = eqx.field(static=True, default=None)
    progress: ProgressLike = False


class Solved(eqx.Module):
    """The answers of `solve`, with a leading axis `n`; rows of failed samples are NaN, as are their saved values."""

    y: PyTree
    saved: Saved | None
    stats: Stats
    result: RESULTS


def solve(equation: AbstractEquation, starts: tuple[PyTree, PyTree], spec: SolveSpec) -> Solved:
    """Solves every sample of `starts`.

    **Arguments:**

    - `equation`: what moves the samples; differentiable.
    - `starts`: `(state, data)`, each leaf with a leading axis `n`; differentiable.
    - `spec`: how to solve.

    **Returns:** [`Solved`][].
    """
    # The error control is no part of the discrete solve that is differentiated.
    stepping = dataclasses.replace(spec.stepping, controller=_constant(spec.stepping.controller))
    raised = functools.partial(_at_least, stepping.start.dtype)
    starts = jax.tree.map(raised, starts[0]), starts[1]
    n, lanes = count_rows(starts[0]), spec.lanes
    if lanes is None:
        # On a grid all samples take the same steps.
        lanes = n if stepping.grid is not None else _LANES.get(jax.default_backend(), 1024)
    saver = None if spec.saveat is None else make_saver(spec.saveat, stepping)
    # Compilers round a batch of one differently, which can change the adaptive steps of an SDE.
    lanes = max(min(lanes, n), 1 if getattr(stepping.controller, "unit", None) is None else 2)
    method = Method(spec.solver, stepping, saver, make_meter(spec.progress), lanes)
    if spec.adjoint is None:
        outcome = _replayed((equation, starts), method)
    else:
        outcome = _mapped(Batch(equation, starts, method), spec)
    y, result = mark_nonfinite(outcome.y, outcome.result)
    steps = outcome.num_steps
    stats = Stats(steps, steps - outcome.num_accepted, steps * evaluations_per_step(spec.solver))
    saved = outcome.saved
    if saved is not None:
        saved = Saved(saved.times, _good_rows(result, saved.values))
    return Solved(y, saved, stats, result)


def mark_nonfinite(tree: PyTree, result: RESULTS) -> tuple[PyTree, RESULTS]:
    """Marks rows of successful solves that are not finite as failures, and sets all of a failed row to NaN."""
    finite = finite_rows(tree) | (result != RESULTS.successful)
    result = jax.vmap(RESULTS.where, in_axes=(0, 0, None))(finite, result, NONFINITE)
    return _good_rows(result, tree), result


def _good_rows(result: RESULTS, tree: PyTree) -> PyTree:
    """The rows of successful solves, and NaN in place of the others."""
    arrays, others = eqx.partition(tree, eqx.is_inexact_array)
    nan = jax.tree.map(functools.partial(jnp.full_like, fill_value=jnp.nan), arrays)
    return eqx.combine(select(result == RESULTS.successful, arrays, nan), others)


def _constant(tree: PyTree) -> PyTree:
    arrays, others = eqx.partition(tree, eqx.is_inexact_array)
    return eqx.combine(jax.lax.stop_gradient(arrays), others)


def _at_least(dtype: DType, leaf: Array) -> Array:
    """A state of a lower precision than time is raised to the precision of time, as `diffeqsolve` does."""
    return leaf.astype(dtype) if jnp.finfo(leaf.dtype).bits < jnp.finfo(dtype).bits else leaf


@eqx.filter_custom_vjp
def _replayed(arguments: tuple[AbstractEquation, PyTree], method: Method) -> Outcome:
    run = solve_lanes if method.stepping.grid is None else solve_fixed
    return run(Batch(*arguments, method), recording=False)[0]


@_replayed.def_fwd
def _replayed_fwd(perturbed: PyTree, arguments: tuple[AbstractEquation, PyTree], method: Method) -> tuple[Outcome, Any]:
    run = solve_lanes if method.stepping.grid is None else solve_fixed
    outcome, record = run(Batch(*arguments, method), recording=True)
    good = (outcome.result == RESULTS.successful) & finite_rows(outcome.y)
    counts = jnp.where(good, outcome.num_accepted, 0)
    return outcome, (record, counts, outcome.y, outcome.saved)


@_replayed.def_bwd
def _replayed_bwd(
    residuals: Any,
    cotangents: Outcome,
    perturbed: PyTree,
    arguments: tuple[AbstractEquation, PyTree],
    method: Method,
) -> PyTree:
    record, counts, y, saved = residuals
    end = _filled(cotangents.y, y)
    end = select(counts > 0, end, jax.tree.map(jnp.zeros_like, end))
    values = None
    if cotangents.saved is not None and jax.tree.leaves(cotangents.saved.values):
        values = _filled(cotangents.saved.values, eqx.filter(saved.values, eqx.is_inexact_array))
    return pull_back(Batch(*arguments, method), perturbed, record, counts, Cotangents(end, values))


def _filled(cotangents: PyTree, like: PyTree) -> PyTree:
    """The cotangents, with zeros where there is none."""
    zeros = jax.tree.map(jnp.zeros_like, like)
    return jax.tree.map(
        lambda ct, zero: zero if ct is None else ct, cotangents, zeros, is_leaf=lambda leaf: leaf is None
    )


def _mapped(batch: Batch, spec: SolveSpec) -> Outcome:
    """`diffeqsolve` mapped over the samples, `lanes` at a time."""

    def one(start: PyTree) -> Outcome:
        arguments = batch.equation, start, batch.method, spec
        # Forward mode never mixes the rows.
        if isinstance(spec.adjoint, dfx.ForwardMode):
            return _diffeqsolve(*arguments)
        reverse_only = not isinstance(spec.adjoint, dfx.DirectAdjoint)
        return isolate_row(_diffeqsolve, _succeeded, arguments, reverse_only=reverse_only)

    return jax.vmap(one)(batch.starts) if spec.lanes is None else jax.lax.map(one, batch.starts, batch_size=spec.lanes)


def _diffeqsolve(equation: AbstractEquation, start: tuple[PyTree, PyTree], method: Method, spec: SolveSpec) -> Outcome:
    stepping, saveat, adjoint = spec.stepping, spec.saveat, spec.adjoint
    assert adjoint is not None
    terms, args = equation.bind(start, spec.solver, stepping)
    # Some adjoints, such as `BacksolveAdjoint`, accept the end state only.
    last = dfx.SubSaveAt(t1=True)
    solution = dfx.diffeqsolve(
        terms,
        spec.solver,
        stepping.start,
        stepping.end,
        None,
        start[0],
        args,
        saveat=dfx.SaveAt(subs=last if saveat is None else (last, saveat.subs)),
        stepsize_controller=method.stepping.controller,
        adjoint=adjoint,
        max_steps=stepping.max_steps,
        throw=False,
        progress_meter=method.meter,
    )
    assert solution.ys is not None and solution.ts is not None
    saved = None if saveat is None else Saved(solution.ts[1], solution.ys[1])
    end = jax.tree.map(lambda leaf: leaf[0], solution.ys if saveat is None else solution.ys[0])
    steps = jnp.asarray(solution.stats["num_steps"])
    return Outcome(end, saved, steps, jnp.asarray(solution.stats["num_accepted_steps"]), solution.result)


def _succeeded(outcome: Outcome) -> Array:
    finite = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(outcome.y)]
    return (outcome.result == RESULTS.successful) & jnp.all(jnp.stack(finite))


def make_meter(progress: ProgressLike) -> dfx.AbstractProgressMeter:
    """The diffrax progress meter for `progress=` of a verb."""
    if isinstance(progress, dfx.AbstractProgressMeter):
        return progress
    if not progress:
        return dfx.NoProgressMeter()
    if importlib.util.find_spec("tqdm") is None:
        return dfx.TextProgressMeter()
    return dfx.TqdmProgressMeter()
