"""Initialises a solver so that its first step costs no more than the others."""

from typing import Any

import diffrax as dfx
import jax
import jax.numpy as jnp


def init_solver(solver: dfx.AbstractSolver, terms: Any, t0: Any, t1: Any, y0: Any, args: Any) -> Any:
    """`solver.init`, with the first stage already evaluated if the solver reuses its last stage (FSAL).

    Otherwise the first step of any one sample makes the solver evaluate that stage for every sample of the batch.
    """
    state = solver.init(terms, t0, t1, y0, args)
    # diffrax counts a wrapper as an instance of the solver it wraps.
    wrapped = isinstance(solver, dfx.AbstractWrappedSolver)
    tableau = solver.tableau if isinstance(solver, dfx.AbstractERK) and not wrapped else None
    if state is not None and isinstance(tableau, dfx.ButcherTableau) and tableau.fsal:
        state = jnp.asarray(False), solver.func(terms, t0, y0, args)
    return jax.tree.map(jnp.asarray, state)
