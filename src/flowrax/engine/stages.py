"""A step of an explicit Runge-Kutta method, its stages written out.

diffrax loops over them and keeps the slopes in one buffer, which a map over samples makes it transpose for each sum. On
processors that costs a Dopri5 step in 64 dimensions 6 to 8%, a Heun step 5 to 7%.
"""

import functools
from collections.abc import Sequence
from typing import Any

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np

from .._base.typing import Array, PyTree, Scalar

# More are left to diffrax's loop, which compiles the field once. Written out, Dopri5's seven take about as long to
# compile as its loop, and twice as long with their gradient where the network is deep.
_MOST_STAGES = 7


def has_few_stages(solver: dfx.AbstractSolver, solver_state: PyTree) -> bool:
    """Whether [`step_by_stages`][] is the step of `solver`, from a state that holds all that it needs."""
    if type(solver).step is not dfx.AbstractRungeKutta.step or not isinstance(solver, dfx.AbstractERK):
        return False
    tableau = solver.tableau
    if not isinstance(tableau, dfx.ButcherTableau) or tableau.num_stages > _MOST_STAGES:
        return False
    return solver.scan_kind is None and tableau.fsal == (solver_state is not None)


def step_by_stages(
    solver: dfx.AbstractERK, terms: Any, t0: Scalar, t1: Scalar, y0: PyTree[Array], args: PyTree, solver_state: PyTree
) -> tuple[PyTree, PyTree, dict[str, PyTree], PyTree, dfx.RESULTS]:
    """What `solver.step` returns where nothing jumps and, if the last slope is used again, `solver_state` holds it."""
    tableau: Any = solver.tableau
    control = terms.contr(t0, t1)
    field, at, slopes = None, y0, []
    for index, (row, node) in enumerate(zip(((), *tableau.a_lower), (tableau.c1, *tableau.c), strict=True)):
        at = y0 if index == 0 else _plus(y0, row, slopes)
        t = t1 if node == 1 else t0 + jnp.asarray(node, jnp.result_type(t0)) * (t1 - t0)
        if tableau.fsal:
            field = terms.vf(t, at, args) if index else solver_state[1]
            slopes.append(terms.prod(field, control))
        else:
            slopes.append(terms.vf_prod(t, at, args, control))
    y1 = at if tableau.ssal else _plus(y0, tableau.b_sol, slopes)
    error = _plus(None, tableau.b_error, slopes)
    dense = {"y0": y0, "y1": y1, "k": jax.tree.map(lambda *leaves: jnp.stack(leaves), *slopes)}
    return y1, error, dense, (jnp.asarray(False), field) if tableau.fsal else None, dfx.RESULTS.successful


def _plus(y: PyTree[Array] | None, weights: Sequence[float] | np.ndarray, slopes: list[PyTree[Array]]) -> PyTree[Array]:
    """`y`, or zero, plus the weighted sum of the slopes."""
    total = y
    for weight, slope in zip(weights, slopes, strict=True):
        if weight != 0:
            term = jax.tree.map(functools.partial(jnp.multiply, float(weight)), slope)
            total = term if total is None else jax.tree.map(jnp.add, total, term)
    return jax.tree.map(jnp.zeros_like, slopes[0]) if total is None else total
