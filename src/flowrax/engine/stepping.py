"""How a solve advances: its interval, its steps, and the noise that drives it."""

from collections.abc import Callable

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._base.checks import check_count, check_grid, check_not_negative, check_time, is_traced, time_dtype
from .._base.typing import Array, DType, Integer, KeyArray, Numbers, PyTree, Shape
from ..stepper import BrownianTree, GridBrownianPath, levy_area_of
from ..stepper.brownian_tree import lattice_depth
from ..stepper.step_control import CheckedController, checked

Grid = Integer | Numbers

# The first step of an adaptive solve, in units of time, as of `diffeqsolve`. A flow amplifies what goes wrong early, so
# that small steps which grow are worth more than an estimated first step: see the page on the design.
FIRST_STEP = 0.01


class Stepping(eqx.Module):
    """How a solve advances, from `start` to `end`, which may be the smaller."""

    start: Array
    end: Array
    controller: dfx.AbstractStepSizeController
    grid: Array | None
    max_steps: int = eqx.field(static=True)
    backward: bool = eqx.field(static=True)

    @property
    def may_jump(self) -> bool:
        """Whether the controller may step over a discontinuity."""
        return not isinstance(self.controller, CheckedController | dfx.PIDController | dfx.StepTo)

    @property
    def directed_controller(self) -> dfx.AbstractStepSizeController:
        """The controller for a time that runs forward."""
        return self.controller.wrap(-1 if self.backward else 1)

    @property
    def span(self) -> tuple[Array, Array]:
        """Start and end in a time that runs forward."""
        return (-self.start, -self.end) if self.backward else (self.start, self.end)


def has_error_estimate(solver: dfx.AbstractSolver) -> bool:
    """Whether a solver can be stepped adaptively."""
    if isinstance(solver, dfx.AbstractWrappedSolver):
        return type(solver) is dfx.HalfSolver or has_error_estimate(solver.solver)
    if isinstance(solver, dfx.AbstractSRK):
        return solver.tableau.b_error is not None
    return isinstance(solver, dfx.AbstractAdaptiveSolver)


def evaluations_per_step(solver: dfx.AbstractSolver) -> int:
    """Evaluations of the drift in one step."""
    stated = getattr(solver, "num_evaluations_per_step", None)
    if stated is not None:
        return stated
    if type(solver) is dfx.HalfSolver:
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
    start, end = jnp.asarray(interval[0], times), jnp.asarray(interval[1], times)
    backward = interval[0] > interval[1]
    toleranced = rtol is not None or atol is not None
    if toleranced + (controller is not None) + (grid is not None) > 1:
        raise ValueError("Give one of rtol/atol, stepsize_controller and grid, not several.")
    if grid is not None:
        steps = _make_grid(grid, interval, times)
        return Stepping(steps[0], steps[-1], dfx.StepTo(ts=steps), steps, len(steps) - 1, backward)
    if not has_error_estimate(solver):
        raise ValueError(
            f"{type(solver).__name__} has no error estimate to adapt its steps by; pass grid=<number of steps>."
        )
    # diffrax counts a wrapper as an instance of the solver that it wraps.
    plain = issubclass(type(solver), dfx.AbstractERK) and not isinstance(
        solver, dfx.AbstractItoSolver | dfx.AbstractStratonovichSolver
    )
    if stochastic and plain and getattr(controller, "error_order", None) is None:
        raise ValueError(
            f"{type(solver).__name__} has no known order for noise, which adaptive steps need; pass grid=<number of "
            "steps>, or a solver such as ShARK() or Heun()."
        )
    if isinstance(controller, dfx.ConstantStepSize | dfx.StepTo):
        raise ValueError("Fixed steps are asked for by grid=<number of steps>, not by a stepsize_controller.")
    if controller is None:
        check_tolerances(rtol, atol)
        # A proportional-integral controller: far smaller errors than an integral one for as many steps.
        controller = dfx.PIDController(
            rtol=jnp.asarray(default_tolerance if rtol is None else rtol, dtype),
            atol=jnp.asarray(default_tolerance if atol is None else atol, dtype),
            pcoeff=0.4,
            icoeff=0.3,
            norm=norm,
            dtmin=4 * 2.0 ** -lattice_depth(times) * jnp.abs(end - start) if stochastic else None,
        )
    controller = checked(controller, jnp.abs(end - start) if stochastic else None)
    return Stepping(start, end, controller, None, check_count("max_steps", max_steps), backward)


def check_tolerances(rtol: float | Array | None, atol: float | Array | None) -> None:
    """Raises `ValueError` for tolerances that are negative, NaN or infinite, or both zero."""
    for name, value in (("rtol", rtol), ("atol", atol)):
        if value is not None:
            check_not_negative(name, value)
    if rtol is not None and atol is not None and not is_traced(rtol, atol) and np.all(np.add(rtol, atol) == 0):
        raise ValueError("rtol and atol must not both be zero: no step would ever be accepted.")


def _make_grid(grid: Grid, interval: tuple[float, float], dtype: DType) -> Array:
    start, end = interval
    count = check_grid(grid)
    if count is not None:
        return jnp.linspace(start, end, count + 1, dtype=dtype)
    if is_traced(grid):
        traced = jnp.asarray(grid, dtype)
        _check_grid_shape(traced.shape)
        if start > end:
            traced = jnp.where(traced[0] < traced[-1], traced[::-1], traced)
        return traced.at[0].set(start).at[-1].set(end)
    # Known numbers stay numbers within a transformation.
    steps = np.array(grid, dtype)
    _check_grid_shape(steps.shape)
    if start > end and steps[0] < steps[-1]:
        steps = steps[::-1]
    if not np.all(np.diff(steps) * np.sign(end - start) > 0):
        raise ValueError("grid must be strictly increasing.")
    ends = np.asarray([steps[0], steps[-1]], np.float64)
    if not np.allclose(ends, [start, end], rtol=0, atol=1e-6):
        if 0 <= min(interval) and max(interval) <= 1:
            check_time("grid", float(np.min(ends)))
            check_time("grid", float(np.max(ends)))
        raise ValueError(
            f"grid runs from {min(ends):g} to {max(ends):g} but this solve from {min(interval):g} to {max(interval):g}."
        )
    return jnp.asarray(steps).at[0].set(start).at[-1].set(end)


def _check_grid_shape(shape: Shape) -> None:
    if len(shape) != 1 or shape[0] < 2:
        raise ValueError(f"grid has shape {shape}; it needs (k + 1,) times with k >= 1.")


def make_noise(
    stepping: Stepping, solver: dfx.AbstractSolver, key: KeyArray, dtype: DType
) -> Callable[[Shape, int], dfx.AbstractBrownianPath]:
    """The Brownian paths of one sample: counter-based on a grid, a virtual tree where steps adapt."""
    levy_area = levy_area_of(solver)

    def make(shape: Shape, index: int) -> dfx.AbstractBrownianPath:
        own = jax.random.fold_in(key, index)
        if stepping.grid is not None and type(solver) is not dfx.HalfSolver:
            return GridBrownianPath(stepping.grid, shape, own, dtype=dtype, levy_area=levy_area)
        return BrownianTree(stepping.start, stepping.end, shape, own, dtype=dtype, levy_area=levy_area)

    return make
