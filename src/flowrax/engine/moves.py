"""Samples that move by steps of their own: all of them together, one step after the other."""

from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp

from .._result import RESULTS, Samples, Stats
from .._typing import Array, Condition, PyTree
from ..abstract import AbstractModel, AbstractMoves, Move
from ..prior import row_of
from .solve import ProgressLike, make_meter
from .trees import in_lanes


class MovePlan(eqx.Module):
    """How every sample moves."""

    moves: AbstractMoves
    times: Array
    keeps: bool = eqx.field(static=True)
    """Whether the states at all times are wanted."""
    progress: ProgressLike
    lanes: int | None = eqx.field(static=True)


def keeps_steps(saveat: dfx.SaveAt | None) -> bool:
    """Raises `ValueError` for what moves cannot keep: they have states at their own times alone."""
    if saveat is None:
        return False
    sub = saveat.subs
    if saveat.dense or not isinstance(sub, dfx.SubSaveAt) or sub.ts is not None or not sub.steps:
        raise ValueError("These moves have states at their own times alone; pass saveat=diffrax.SaveAt(steps=True).")
    return True


def sample_moves(
    plan: MovePlan, model: AbstractModel, condition: Condition, key: Array, index: Array, x0: PyTree, rows: PyTree
) -> Samples:
    """Moves the samples of those numbers: number `i` draws from `fold_in(key, i)`, in step `k` from its k-th fold."""
    return in_lanes(lambda rows: _together(plan, model, condition, key, *rows), (index, x0, rows), plan.lanes)


def _together(
    plan: MovePlan, model: AbstractModel, condition: Condition, key: Array, index: Array, x0: PyTree, rows: PyTree
) -> Samples:
    count, meter = plan.times.shape[0] - 1, make_meter(plan.progress)
    # The source of sample i draws from the first of these, its moves from the second.
    keys = jax.vmap(lambda i: jax.random.split(jax.random.fold_in(key, i)))(index)

    def source(key: Array, row: PyTree) -> PyTree:
        return row_of(model, condition, row)[0].source.draw(key)

    start = jax.vmap(source)(keys[:, 0], rows) if x0 is None else x0
    n = index.shape[0]

    def body(carry: PyTree, xs: tuple[Array, Array, Array]) -> tuple[PyTree, PyTree]:
        x, failed, progress = carry
        k, begin, end = xs

        def one(x: PyTree, first: PyTree, key: Array, row: PyTree) -> PyTree:
            # A fold that no step has: what the steps share is drawn apart from what each draws.
            step = Move(k, count, begin, end, first, jax.random.fold_in(key, count))
            own, given = row_of(model, condition, row)
            return plan.moves.move(own, step, x, given, jax.random.fold_in(key, k))

        x = jax.vmap(one)(x, start, keys[:, 1], rows)
        # A later step may draw a good token where one has failed.
        failed |= _failed(x, n)
        return (x, failed, meter.step(progress, (k + 1) / count)), (x if plan.keeps else None)

    steps = jnp.arange(count), plan.times[:-1], plan.times[1:]
    (x, failed, progress), states = jax.lax.scan(body, (start, jnp.zeros(n, bool), meter.init()), steps)
    meter.close(progress)
    number = jnp.full(n, count, jnp.int32)
    stats = Stats(number, jnp.zeros_like(number), number * plan.moves.evaluations)
    trajectory = None
    if plan.keeps:
        joined = jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), start, states)
        trajectory = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 1), joined)
    times = jnp.broadcast_to(plan.times, (n, count + 1)) if plan.keeps else None
    return Samples(_marked(x, failed), None, None, trajectory, times, stats, jax.vmap(_code)(failed))


def _failed(x: PyTree, n: int) -> Array:
    """Where a token of a row is -1 or a number is not finite."""
    failed = jnp.zeros(n, bool)
    for leaf in jax.tree.leaves(x):
        bad = leaf < 0 if jnp.issubdtype(leaf.dtype, jnp.integer) else ~jnp.isfinite(leaf)
        failed |= jnp.any(bad.reshape(n, -1), axis=1)
    return failed


def _marked(x: PyTree, failed: Array) -> PyTree:
    """Failed rows have no event: -1 and NaN."""

    def mark(leaf: Array) -> Array:
        bad = -1 if jnp.issubdtype(leaf.dtype, jnp.integer) else jnp.nan
        return jnp.where(failed.reshape((-1,) + (1,) * (leaf.ndim - 1)), jnp.asarray(bad, leaf.dtype), leaf)

    return jax.tree.map(mark, x)


def _code(failed: Array) -> RESULTS:
    bad: Any = RESULTS.nonfinite
    return RESULTS.where(failed, bad, RESULTS.successful)
