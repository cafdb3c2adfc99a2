"""Many independent solves at once, each with its own step size and its own error control.

This is the only module that calls `diffrax.diffeqsolve`.
"""

import importlib.util
from collections.abc import Callable
from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ._checks import check_time, is_traced, time_dtype
from ._result import RESULTS, Stats
from ._typing import Array, DType, KeyArray, Numbers, PyTree, Shape
from .stepper import GridBrownianPath, levy_area_of

Grid = int | Numbers
Progress = bool | dfx.AbstractProgressMeter

# Resolution of the Brownian tree of an adaptive SDE solve, as a fraction of its interval.
_TREE_RESOLUTION = 2.0**-13


_NONFINITE: Any = RESULTS.nonfinite


class Stepping(eqx.Module):
    """How a solve advances, from start to end."""

    start: Array
    end: Array
    controller: dfx.AbstractStepSizeController
    grid: Array | None
    max_steps: int = eqx.field(static=True)


def has_error_estimate(solver: dfx.AbstractSolver) -> bool:
    """Whether a solver can be stepped adaptively."""
    if isinstance(solver, dfx.AbstractSRK):
        return solver.tableau.b_error is not None
    return isinstance(solver, dfx.AbstractAdaptiveSolver)


def evaluations_per_step(solver: dfx.AbstractSolver) -> int:
    """Evaluations of the drift in one step."""
    stated = getattr(solver, "num_evaluations_per_step", None)
    if stated is not None:
        return stated
    if isinstance(solver, dfx.HalfSolver):
        return 3 * evaluations_per_step(solver.solver)
    if isinstance(solver, dfx.AbstractWrappedSolver):
        return evaluations_per_step(solver.solver) + 1
    if isinstance(solver, dfx.AbstractSRK):
        return len(solver.tableau.b_sol)
    tableau = getattr(solver, "tableau", None)
    if isinstance(tableau, dfx.ButcherTableau):
        return tableau.num_stages - int(tableau.fsal)
    return 2 if isinstance(solver, (dfx.QUICSORT, dfx.ShOULD)) else 1


def make_stepping(
    interval: tuple[float, float],
    solver: dfx.AbstractSolver,
    dtype: DType,
    *,
    rtol: float | Array | None,
    atol: float | Array | None,
    controller: dfx.AbstractStepSizeController | None,
    grid: Grid | None,
    max_steps: int,
    default_tolerance: float,
    norm: Callable[[PyTree], Array],
    stochastic: bool = False,
) -> Stepping:
    """Makes tolerances, a controller or a grid into a [`Stepping`][] over `interval`; more than one is an error."""
    times = time_dtype(dtype)
    start, end = (jnp.asarray(t, times) for t in interval)
    toleranced = rtol is not None or atol is not None
    if toleranced + (controller is not None) + (grid is not None) > 1:
        raise ValueError("Give one of rtol/atol, stepsize_controller and grid, not several.")
    if grid is not None:
        steps = _make_grid(grid, interval, times)
        return Stepping(steps[0], steps[-1], dfx.StepTo(ts=steps), steps, len(steps) - 1)
    if not has_error_estimate(solver):
        raise ValueError(
            f"{type(solver).__name__} has no error estimate to adapt its steps by; pass grid=<number of steps>."
        )
    if isinstance(controller, dfx.ConstantStepSize | dfx.StepTo):
        raise ValueError("Fixed steps are asked for by grid=<number of steps>, not by a stepsize_controller.")
    if max_steps < 1:
        raise ValueError(f"max_steps must be at least 1; got {max_steps}.")
    if controller is None:
        # A proportional-integral controller: far smaller errors than an integral one for as many steps.
        controller = dfx.PIDController(
            rtol=jnp.asarray(default_tolerance if rtol is None else rtol, dtype),
            atol=jnp.asarray(default_tolerance if atol is None else atol, dtype),
            pcoeff=0.4,
            icoeff=0.3,
            norm=norm,
            dtmin=2 * _TREE_RESOLUTION * jnp.abs(end - start) if stochastic else None,
        )
    return Stepping(start, end, controller, None, max_steps)


def _make_grid(grid: Grid, interval: tuple[float, float], dtype: DType) -> Array:
    start, end = interval
    if isinstance(grid, int):
        if grid < 1:
            raise ValueError(f"grid={grid} steps are too few; at least 1 is needed.")
        return jnp.linspace(start, end, grid + 1, dtype=dtype)
    steps = jnp.asarray(grid, dtype)
    if steps.ndim != 1 or steps.shape[0] < 2:
        raise ValueError(f"grid has shape {steps.shape}; it needs (k + 1,) times with k >= 1.")
    if is_traced(steps):
        return steps
    if start > end:
        steps = steps[::-1] if steps[0] < steps[-1] else steps
    if np.any(np.diff(np.asarray(steps)) * np.sign(end - start) <= 0):
        raise ValueError("grid must be strictly increasing.")
    ends = np.asarray([steps[0], steps[-1]], np.float64)
    if not np.allclose(ends, [start, end], rtol=0, atol=1e-6):
        if 0 <= min(interval) and max(interval) <= 1:
            check_time("grid", float(np.min(ends)))
            check_time("grid", float(np.max(ends)))
        raise ValueError(
            f"grid runs from {min(ends):g} to {max(ends):g} but this solve from {min(interval):g} to {max(interval):g}."
        )
    return steps.at[0].set(start).at[-1].set(end)


def make_noise(
    stepping: Stepping, solver: dfx.AbstractSolver, key: KeyArray, dtype: DType
) -> Callable[[Shape, int], dfx.AbstractBrownianPath]:
    """The Brownian paths of one sample: counter-based on a grid, a virtual tree where steps adapt."""
    levy_area = levy_area_of(solver)

    def make(shape: Shape, index: int) -> dfx.AbstractBrownianPath:
        own = jax.random.fold_in(key, index)
        if stepping.grid is not None and not isinstance(solver, dfx.HalfSolver):
            return GridBrownianPath(stepping.grid, shape, own, dtype=dtype, levy_area=levy_area)
        tolerance = _TREE_RESOLUTION * jnp.abs(stepping.end - stepping.start)
        return dfx.VirtualBrownianTree(
            stepping.start, stepping.end, tolerance, jax.ShapeDtypeStruct(shape, dtype), own, levy_area
        )

    return make


def solve_one(
    terms: Any,
    solver: dfx.AbstractSolver,
    stepping: Stepping,
    state: PyTree[Array],
    args: PyTree,
    *,
    saveat: dfx.SaveAt | None,
    adjoint: dfx.AbstractAdjoint | None,
    progress: Progress,
) -> tuple[PyTree[Array], PyTree[Array], Stats, RESULTS]:
    """One sample's solve: its end state, what `saveat` asked for as `(times, states)` or None, its work and its code.

    A state that is not finite is a failure even where the solver did not notice, and a failed state is NaN throughout.
    """
    # Some adjoints, such as `BacksolveAdjoint`, take the end state alone.
    last = dfx.SubSaveAt(t1=True)
    solution = dfx.diffeqsolve(
        terms,
        solver,
        stepping.start,
        stepping.end,
        None,
        state,
        args,
        saveat=dfx.SaveAt(subs=last if saveat is None else (last, saveat.subs)),
        stepsize_controller=stepping.controller,
        adjoint=dfx.RecursiveCheckpointAdjoint() if adjoint is None else adjoint,
        max_steps=stepping.max_steps,
        throw=False,
        progress_meter=_meter(progress),
    )
    assert solution.ys is not None and solution.ts is not None
    end = jax.tree.map(lambda leaf: leaf[0], solution.ys if saveat is None else solution.ys[0])
    result = solution.result
    finite = jax.tree.reduce(jnp.logical_and, jax.tree.map(lambda leaf: jnp.all(jnp.isfinite(leaf)), end))
    result = RESULTS.where((result == RESULTS.successful) & ~finite, _NONFINITE, result)
    good = result == RESULTS.successful
    end = jax.tree.map(lambda leaf: jnp.where(good, leaf, jnp.nan), end)
    steps = jnp.asarray(solution.stats["num_steps"])
    stats = Stats(
        num_steps=steps,
        num_rejected=jnp.asarray(solution.stats["num_rejected_steps"]),
        num_evaluations=steps * evaluations_per_step(solver),
    )
    saved = None if saveat is None else (solution.ts[1], solution.ys[1])
    return end, saved, stats, result


def map_samples(function: Callable[..., Any], rows: PyTree, lanes: int | None) -> Any:
    """`function` over the leading axis of `rows`: all at once, or `lanes` at a time for bounded memory."""
    if lanes is None:
        return jax.vmap(function)(rows)
    if lanes < 1:
        raise ValueError(f"lanes must be at least 1; got {lanes}.")
    return jax.lax.map(function, rows, batch_size=lanes)


def _meter(progress: Progress) -> dfx.AbstractProgressMeter:
    if isinstance(progress, dfx.AbstractProgressMeter):
        return progress
    if not progress:
        return dfx.NoProgressMeter()
    if importlib.util.find_spec("tqdm") is None:
        return dfx.TextProgressMeter()
    return dfx.TqdmProgressMeter()
