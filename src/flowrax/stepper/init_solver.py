"""The first state of a solver, such that its first step costs as much as the others."""

from typing import Any

import diffrax as dfx
import jax
import jax.numpy as jnp


def init_solver(solver: dfx.AbstractSolver, terms: Any, t0: Any, t1: Any, y0: Any, args: Any) -> Any:
    """`solver.init`, where a solver that reuses its last stage has its first one evaluated already.

    Otherwise the first step of one sample would make the solver evaluate that stage for every sample beside it.
    """
    state = solver.init(terms, t0, t1, y0, args)
    if state is not None and _reuses_last_stage(solver):
        state = jnp.asarray(False), solver.func(terms, t0, y0, args)
    return jax.tree.map(jnp.asarray, state)


def _reuses_last_stage(solver: dfx.AbstractSolver) -> bool:
    # diffrax calls a wrapper an instance of the class it wraps.
    wrapped = isinstance(solver, dfx.AbstractWrappedSolver)
    tableau = solver.tableau if isinstance(solver, dfx.AbstractERK) and not wrapped else None
    return isinstance(tableau, dfx.ButcherTableau) and tableau.fsal
