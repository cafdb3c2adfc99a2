"""A grid of steps for a flow, found by an adaptive solve of a few draws together."""

from typing import Any, cast

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._base.typing import Array, Batch, PyTree
from ..engine import AbstractEquation, SolveSpec, has_error_estimate

# The tolerance of the adaptive solve, relative to the spread of the draws, the share of draws that meet it at each
# step, and the limit of its steps.
_TOLERANCE, _SHARE, _MOST = 1e-3, 0.9, 1024
# The numbers of steps that are used, few, so that few programs are compiled.
_COUNTS = (8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)


def pilot_grid(equation: AbstractEquation, starts: tuple[Batch, PyTree], spec: SolveSpec) -> np.ndarray | None:
    """The times of an adaptive solve of all starts with common steps, or None if it fails or the solver cannot adapt.

    **Arguments:**

    - `equation`: the equation of the flow.
    - `starts`: the states at the start of the flow, `(n, *shape)`, and what belongs to each row.
    - `spec`: whose solver, start and end are used.

    **Returns:** times, `(k + 1,)`. The number of steps is rounded up, to one of a few numbers.
    """
    if not has_error_estimate(spec.solver):
        return None
    first = _times(equation, starts, spec, jnp.asarray(_TOLERANCE, starts[0].dtype))
    if first is None:
        return None
    times, end = first
    # The tolerance holds for events of order one; where they are smaller, it must be too.
    scale = float(jnp.sqrt(jnp.mean(jnp.var(end, axis=0))))
    if 0 < scale < 0.3:
        again = _times(equation, starts, spec, jnp.asarray(_TOLERANCE * scale, starts[0].dtype))
        times = times if again is None else again[0]
    count = len(times) - 1
    steps = min(k for k in _COUNTS if k >= count)
    grid = np.interp(np.linspace(0, count, steps + 1), np.arange(count + 1), times)
    return grid if np.all(np.diff(grid.astype(times.dtype)) != 0) else None


def _times(
    equation: AbstractEquation, starts: tuple[Batch, PyTree], spec: SolveSpec, atol: Array
) -> tuple[np.ndarray, Array] | None:
    solution = _solve(equation, starts, spec, atol)
    times, states = cast(tuple[Array, Array], solution.ys)
    count = int(solution.stats["num_accepted_steps"])
    if solution.result != dfx.RESULTS.successful or not bool(jnp.all(jnp.isfinite(states[count]))):
        return None
    return np.asarray(times[: count + 1]), states[count]


@eqx.filter_jit
def _solve(equation: AbstractEquation, starts: tuple[Batch, PyTree], spec: SolveSpec, atol: Array) -> dfx.Solution:
    def velocity(t: Any, y: Batch, args: None) -> Batch:
        def one(start: PyTree, y: Array) -> Array:
            terms, own = equation.bind(start, spec.solver, spec.stepping)
            return terms.vf(t, y, own)

        return jax.vmap(one)(starts, y)

    def norm(error: Batch) -> Array:
        rows = jnp.sqrt(jnp.mean(error.reshape(error.shape[0], -1) ** 2, axis=1))
        return jnp.quantile(rows, jnp.asarray(_SHARE, rows.dtype))

    controller = dfx.PIDController(
        rtol=jnp.asarray(_TOLERANCE, atol.dtype), atol=atol, pcoeff=0.4, icoeff=0.3, norm=norm
    )
    start, end = spec.stepping.start, spec.stepping.end
    return dfx.diffeqsolve(
        dfx.ODETerm(velocity), spec.solver, start, end, 0.01 * (end - start), starts[0],
        stepsize_controller=controller, saveat=dfx.SaveAt(t0=True, steps=True, fn=lambda t, y, args: (t, y)),
        max_steps=_MOST, throw=False,
    )  # fmt: skip
