"""The forward pass of a solve, which keeps the times of its accepted steps.

It uses the solver's `step` and the controller's `adapt_step_size`. diffrax's own loop does the same but does not return
those times.
"""

from typing import Any, cast

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp

from .._base.typing import Array, PyTree, Scalar
from .step_control import adapt

State = PyTree[Array]


class AcceptedSteps(eqx.Module):
    """The outcome of a forward pass."""

    taken: Any
    """Number of accepted steps."""
    tried: Any
    """Number of attempted steps."""
    end: Array
    """The time that was reached."""
    times: Array | None
    """`t0` and the ends of the accepted steps, `(max_steps + 1,)`; None on a grid or where they are not kept."""
    result: dfx.RESULTS
    meter_state: PyTree


def share_of_interval(ts: Array, start: Scalar, end: Scalar) -> tuple[Array, Array]:
    """Whether each time lies in `(start, end]`, and the fraction of the interval that precedes it."""
    return (ts > start) & (ts <= end), (ts - start) / (end - start)


class March(eqx.Module):
    """The solver, the step size control, the interval and the save times of a solve."""

    solver: dfx.AbstractSolver
    controller: dfx.AbstractStepSizeController
    meter: dfx.AbstractProgressMeter
    t0: Any
    t1: Any
    first: Any
    """The end of the first step to attempt."""
    controller_state: PyTree
    meter_state: PyTree
    ts: Array
    """Times to save at, `(n,)`."""
    max_steps: int | None = eqx.field(static=True)

    @property
    def grid(self) -> Array | None:
        return self.controller.ts if isinstance(self.controller, dfx.StepTo) else None

    def forward(
        self, y: State, solver_state: PyTree, terms: PyTree, args: PyTree, *, keep_times: bool
    ) -> tuple[State, PyTree, PyTree, AcceptedSteps]:
        """The final state, the final solver state, the states at `ts` (interpolated linearly), and the record."""
        saved = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (len(self.ts), *leaf.shape)), y)
        march = self._adapting if self.grid is None else self._on_grid
        return march(y, solver_state, saved, terms, args, keep_times)

    def _save(self, saved: PyTree, start: Scalar, end: Scalar, y0: State, y1: State) -> PyTree:
        if not len(self.ts):
            return saved
        within, share = share_of_interval(self.ts, start, end)

        def one(rows: Array, a: Array, b: Array) -> Array:
            shape = (-1, *[1] * a.ndim)
            values = a[None] + share.astype(a.dtype).reshape(shape) * (b - a)[None]
            return jnp.where(within.reshape(shape), values, rows)

        return jax.tree.map(one, saved, y0, y1)

    def _progress(self, state: PyTree, t: Scalar) -> PyTree:
        return self.meter.step(state, (t - self.t0) / (self.t1 - self.t0))

    def _on_grid(
        self, y: State, solver_state: PyTree, saved: PyTree, terms: PyTree, args: PyTree, keep_times: bool
    ) -> tuple[State, PyTree, PyTree, AcceptedSteps]:
        grid = self.grid
        assert grid is not None
        count = len(grid) - 1
        taken = count if self.max_steps is None else min(count, self.max_steps)

        def step(carry: Any, interval: tuple[Array, Array]) -> tuple[Any, None]:
            y0, solver_state, saved, meter_state = carry
            start, end = interval
            y1, _, _, solver_state, _ = self.solver.step(terms, start, end, y0, args, solver_state, False)
            saved = self._save(saved, start, end, y0, y1)
            return (y1, solver_state, saved, self._progress(meter_state, end)), None

        carry = (y, solver_state, saved, self.meter_state)
        carry, _ = jax.lax.scan(step, carry, (grid[:taken], grid[1 : taken + 1]))
        y, solver_state, saved, meter_state = carry
        result = dfx.RESULTS.successful if taken == count else dfx.RESULTS.max_steps_reached
        return y, solver_state, saved, AcceptedSteps(taken, taken, grid[taken], None, result, meter_state)

    def _adapting(
        self, y: State, solver_state: PyTree, saved: PyTree, terms: PyTree, args: PyTree, keep_times: bool
    ) -> tuple[State, PyTree, PyTree, AcceptedSteps]:
        assert self.max_steps is not None
        max_steps, order = self.max_steps, cast(float, self.solver.error_order(terms))

        def running(carry: Any) -> Array:
            start, record = carry[0], carry[-1]
            return (start < self.t1) & (record.result == dfx.RESULTS.successful) & (record.tried < max_steps)

        def body(carry: Any) -> Any:
            (start, end, y0, solver_state, controller_state, saved, record), times = carry
            active = running(carry[0])
            y1, error, _, new_solver_state, solved = self.solver.step(terms, start, end, y0, args, solver_state, False)
            adapted = adapt(
                self.controller,
                (self.t0, self.t1),
                (start, end),
                (y0, y1),
                args,
                error,
                order,
                controller_state,
                solved,
            )
            keep = adapted.keep
            if keep_times:
                # The times of rejected steps are written out of range, where JAX drops them.
                times = times.at[jnp.where(keep & active, record.taken + 1, max_steps + 1)].set(end, mode="drop")
            new_record = AcceptedSteps(
                taken=record.taken + keep.astype(int),
                tried=record.tried + 1,
                end=adapted.t0,
                times=None,
                result=adapted.result,
                meter_state=self._progress(record.meter_state, adapted.t0),
            )
            moved = (y1, new_solver_state, self._save(saved, start, end, y0, y1))
            y1, new_solver_state, new_saved = _choose(keep, moved, (y0, solver_state, saved))
            new = adapted.t0, adapted.t1, y1, new_solver_state, adapted.controller_state, new_saved, new_record
            return _choose(active, new, carry[0]), times

        zero, times = jnp.asarray(0), jnp.full(max_steps + 1, self.t0) if keep_times else None
        record = AcceptedSteps(zero, zero, self.t0, None, _traced(dfx.RESULTS.successful), self.meter_state)
        carry = (self.t0, self.first, y, solver_state, self.controller_state, saved, record)
        carry, times = jax.lax.while_loop(lambda c: any_in_batch(running(c[0])), body, (_arrays(carry), times))
        start, _, y, solver_state, _, saved, record = carry
        short = (record.result == dfx.RESULTS.successful) & (start < self.t1)
        result = dfx.RESULTS.where(short, dfx.RESULTS.max_steps_reached, record.result)
        record = eqx.tree_at(lambda r: (r.result, r.times), record, (result, times), is_leaf=lambda node: node is None)
        return y, solver_state, saved, record


@jax.custom_batching.custom_vmap
def any_in_batch(flag: Array) -> Array:
    """The flag; under `jax.vmap`, whether any flag of the batch is set.

    A loop whose condition is shared by the batch does not copy its buffers.
    """
    return flag


@any_in_batch.def_vmap
def _any_mapped(axis_size: int, in_batched: list[bool], flag: Array) -> tuple[Array, bool]:
    return any_in_batch(jnp.any(flag)), False


def _choose(flag: Array, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(flag, a, b), new, old)


def _traced(result: dfx.RESULTS) -> dfx.RESULTS:
    return dfx.RESULTS.where(jnp.asarray(True), result, result)


def _arrays(tree: PyTree) -> PyTree:
    return jax.tree.map(jnp.asarray, tree)
