"""Whether a diffrax solver fits a dynamics, and the tolerances of an implicit solver's root finder."""

from typing import Any

import diffrax as dfx
import equinox as eqx
import jax.numpy as jnp
import optimistix as optx

from .._base.typing import DType

_NOISE_ONLY = (
    dfx.AbstractSRK,
    dfx.EulerHeun,
    dfx.ItoMilstein,
    dfx.StratonovichMilstein,
    dfx.AbstractFosterLangevinSRK,
)
_SPLIT = (dfx.KenCarp3, dfx.KenCarp4, dfx.KenCarp5, dfx.Sil3, dfx.SemiImplicitEuler)


def innermost(solver: dfx.AbstractSolver) -> dfx.AbstractSolver:
    """The solver within all wrappers such as `HalfSolver`."""
    while isinstance(solver, dfx.AbstractWrappedSolver):
        solver = solver.solver
    return solver


def check_flow_solver(name: str, solver: dfx.AbstractSolver) -> dfx.AbstractSolver:
    """The solver; raises `ValueError` for one that the ordinary differential equation called `name` cannot use."""
    inner = innermost(solver)
    kind = type(inner).__name__
    if isinstance(inner, _NOISE_ONLY):
        raise ValueError(
            f"{kind} is a solver for noise, and {name} has none; use one such as Dopri5(), Heun() or Kvaerno5()."
        )
    _check_one_part(name, inner)
    return solver


def check_noise_solver(name: str, solver: dfx.AbstractSolver) -> dfx.AbstractSolver:
    """The solver; raises `ValueError` for one that the stochastic differential equation called `name` cannot use."""
    inner = innermost(solver)
    kind = type(inner).__name__
    if isinstance(inner, dfx.LeapfrogMidpoint):
        raise ValueError(
            f"LeapfrogMidpoint steps over two intervals at once, but {name} draws its noise for one at a time; use a "
            "one-step solver such as Euler, Heun or ShARK."
        )
    _check_one_part(name, inner)
    if isinstance(inner, dfx.AbstractImplicitSolver):
        raise ValueError(
            f"{kind} is an implicit solver, and {name} has noise; use one such as ShARK(), Heun() or Euler()."
        )
    if isinstance(inner, dfx.AbstractFosterLangevinSRK) and name != "UnderdampedLangevin":
        raise ValueError(f"{kind} is a solver for UnderdampedLangevin only; for {name} use one such as ShARK().")
    return solver


def _check_one_part(name: str, solver: dfx.AbstractSolver) -> None:
    if isinstance(solver, _SPLIT):
        raise ValueError(
            f"{type(solver).__name__} is a solver for a vector field in two parts, and {name} has one; use one such as "
            "Dopri5() or, for stiff equations, Kvaerno5()."
        )


def with_tolerances(solver: Any, controller: dfx.AbstractStepSizeController, dtype: DType) -> Any:
    """The solver, whose root finder (if implicit) takes its tolerances from the step control, as in diffrax.

    Fixed steps have no tolerances: there the root finder gets 1e-5, or 1e-8 in float64.
    """
    if isinstance(solver, dfx.AbstractWrappedSolver):
        return eqx.tree_at(lambda s: s.solver, solver, with_tolerances(solver.solver, controller, dtype))
    if not isinstance(solver, dfx.AbstractImplicitSolver):
        return solver
    tolerance = 1e-5 if jnp.finfo(dtype).bits <= 32 else 1e-8
    fixed = {"rtol": tolerance, "atol": tolerance, "norm": optx.rms_norm}
    adaptive = isinstance(controller, dfx.AbstractAdaptiveStepSizeController)
    finder = solver.root_finder
    # diffrax marks an attribute that is to be taken from the step control by an object that is no number.
    open_ = [name for name in fixed if _is_open(getattr(finder, name, None))]
    if not open_:
        return solver
    values = [getattr(controller, name) if adaptive else fixed[name] for name in open_]
    return eqx.tree_at(lambda s: [getattr(s.root_finder, name) for name in open_], solver, values)


def _is_open(value: Any) -> bool:
    return value is _USE_STEPSIZE_TOLERANCE


# diffrax's mark of a tolerance that is to be taken from the step control, read off a solver that has it.
_USE_STEPSIZE_TOLERANCE = dfx.Kvaerno3().root_finder.rtol
