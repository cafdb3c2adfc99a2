"""Adaptive solves of many samples on a fixed number of lanes: a lane whose sample is done takes the next one.

Every lane steps one sample with its own step size and its own error control. The lanes advance together, so that a
step is one evaluation of a batch; no lane waits for the slowest sample.
"""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx

from .._base.result import RESULTS
from .._base.typing import Array, Int, PyTree
from ..stepper.accepted_steps import any_in_batch
from .batch import Batch
from .bound_sample import Interval, Progress
from .record import Record, capacity_for, empty_points
from .trees import count_rows, put, select, take

_NONFINITE: Any = RESULTS.nonfinite


class Outcome(eqx.Module):
    """The outcome of each sample's solve; every leaf has a leading axis `n`."""

    y: PyTree
    saved: Any
    num_steps: Int[Array, "*n"]
    num_accepted: Int[Array, "*n"]
    result: RESULTS


class _Loop(eqx.Module):
    rows: Array
    """The sample on each lane, or `n` for none."""
    queue: Array
    """The next sample to take."""
    progress: Progress
    saved: Any
    outcome: Outcome
    record: Record | None
    meter: Any


def _attempt(batch: Batch, start: PyTree, now: Progress, saved: Any) -> tuple[Progress, Array, Array, Outcome]:
    """One step of one sample under error control.

    The progress after it, whether the step was accepted, whether it was the last, and the outcome of the sample if so.
    """
    sample, saver, interval = batch.bind(start), batch.method.saver, now.interval
    stepping, (t0, t1) = sample.stepping, sample.stepping.span
    point, error, dense, solver_result = sample.step(interval, now.point)
    error = jax.tree.map(functools.partial(jnp.nan_to_num, nan=jnp.inf, posinf=jnp.inf, neginf=-jnp.inf), error)
    # A controller may come with an order of its own.
    order: Any = sample.solver.error_order(sample.terms)
    keep, t_prev, t_next, made_jump, controller_state, controller_result = stepping.directed_controller.adapt_step_size(
        interval.t0, interval.t1, now.point.y, point.y, sample.args, error, order, now.controller_state
    )
    keep, t_prev = jnp.asarray(keep), jnp.minimum(t_prev, t1)
    # The last step must not be so short that its interpolation is rounding error only.
    resolution = jnp.finfo(t1.dtype).eps * jnp.maximum(jnp.abs(t0), jnp.abs(t1))
    t_end = jnp.where(keep, t1, t_prev + (t1 - t_prev) / 2)
    t_next = jnp.where(t_next > t1 - 100 * resolution, t_end, t_next)
    result = RESULTS.where(keep, solver_result, RESULTS.successful)
    result = RESULTS.where(result == RESULTS.successful, controller_result, result)
    # A rejected step that time cannot resolve ends the solve, as does a step size that is not a number.
    stuck = ~keep & ~(t_next - t_prev > 2 * resolution) & (result == RESULTS.successful)
    infinite = jnp.isinf(optx.max_norm(error))
    result = RESULTS.where(stuck, RESULTS.where(infinite, _NONFINITE, RESULTS.dt_min_reached), result)
    after = Progress(
        interval=Interval(t_prev, t_next, jnp.where(keep, made_jump, interval.made_jump)),
        point=select(keep, point, now.point),
        controller_state=controller_state,
        num_steps=now.num_steps + 1,
        num_accepted=now.num_accepted + keep.astype(jnp.int32),
        result=result,
    )
    if saver is not None:
        saved = saver.save(sample, interval, now.num_accepted, after.point.y, dense, keep, saved)
    over, result = after.ending(stepping)
    return after, keep, over, Outcome(after.point.y, saved, after.num_steps, after.num_accepted, result)


def solve_lanes(batch: Batch, recording: bool) -> tuple[Outcome, Record | None]:
    """Solves every sample of the batch; with `recording`, also keeps what a backward pass needs."""
    n, lanes, meter = count_rows(batch.starts), batch.method.lanes, batch.method.meter
    chunks = -(-n // lanes)
    rows = jnp.minimum(jnp.arange(chunks * lanes), n - 1).reshape(chunks, lanes)
    first = jax.lax.map(jax.vmap(batch.first), take(batch.starts, rows))
    firsts, blank = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:n], first)

    def advance(loop: _Loop) -> _Loop:
        """One attempted step on every lane; samples that are over give way to the next ones."""
        start = take(batch.starts, jnp.minimum(loop.rows, n - 1))
        after, kept, over, ended = jax.vmap(functools.partial(_attempt, batch))(start, loop.progress, loop.saved)
        busy, record = loop.rows < n, loop.record
        over = over & busy
        if record is not None:
            record = _recorded(record, loop.progress, jnp.where(kept & busy, loop.rows, n))
        rows = jnp.where(over, jnp.minimum(loop.queue + jnp.cumsum(over) - 1, n), loop.rows)
        queue = jnp.minimum(loop.queue + jnp.sum(over), n)
        fresh, following = over & (rows < n), jnp.minimum(rows, n - 1)
        # A lane without a sample repeats its last step: a step that is known to be possible.
        progress = select(rows < n, after, loop.progress)
        return _Loop(
            rows=rows,
            queue=queue,
            progress=select(fresh, take(firsts, following), progress),
            saved=select(fresh, take(blank, following), ended.saved),
            outcome=put(loop.outcome, jnp.where(over, loop.rows, n), ended),
            record=record,
            meter=meter.step(loop.meter, (queue - jnp.sum(rows < n)) / n),
        )

    rows = jnp.arange(lanes)
    loop = _Loop(
        rows=rows,
        queue=jnp.asarray(lanes),
        progress=take(firsts, rows),
        saved=take(blank, rows),
        outcome=Outcome(firsts.point.y, blank, firsts.num_steps, firsts.num_accepted, firsts.result),
        record=_empty_record(firsts, batch.method.stepping.max_steps) if recording else None,
        meter=meter.init(),
    )
    loop = jax.lax.while_loop(lambda loop: any_in_batch(jnp.any(loop.rows < n)), advance, loop)
    meter.close(loop.meter)
    return loop.outcome, loop.record


def _empty_record(firsts: Progress, max_steps: int) -> Record:
    """A record of no steps; it holds the first interval, so that a sample without steps has one to look at."""
    intervals = jax.tree.map(lambda leaf: jnp.repeat(leaf[None], max_steps, 0), firsts.interval)
    recent, anchors = empty_points(firsts.point, max_steps, capacity_for(firsts.point, max_steps))
    return Record(intervals, jax.tree.map(lambda leaf, row: leaf.at[0].set(row), recent, firsts.point), anchors)


def _recorded(record: Record, now: Progress, rows: Array) -> Record:
    k, capacity = now.num_accepted, record.capacity
    anchored = jnp.where(k % capacity == 0, rows, jnp.iinfo(rows.dtype).max)
    return Record(
        intervals=put(record.intervals, (k, rows), now.interval),
        recent=put(record.recent, (k % capacity, rows), now.point),
        anchors=put(record.anchors, (k // capacity, anchored), now.point),
    )
