"""Adaptive solves of many samples on a fixed number of lanes: a lane whose sample is done takes the next one.

Every lane steps one sample with its own step size and its own error control. The lanes advance together, so that a
step is one evaluation of a batch; no lane waits for the slowest sample.
"""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._base.result import RESULTS
from .._base.typing import Array, Int, PyTree
from ..stepper.accepted_steps import any_in_batch
from ..stepper.step_control import adapt
from .batch import Batch
from .bound_sample import Interval, Progress
from .record import Record, capacity_for, empty_points
from .trees import count_rows, put, select, take


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
    stepping = sample.stepping
    point, error, dense, solver_result = sample.step(interval, now.point)
    adapted = adapt(
        stepping.directed_controller,
        stepping.span,
        (interval.t0, interval.t1),
        (now.point.y, point.y),
        sample.args,
        error,
        sample.solver.error_order(sample.terms),
        now.controller_state,
        solver_result,
    )
    keep = adapted.keep
    after = Progress(
        interval=Interval(adapted.t0, adapted.t1, jnp.where(keep, adapted.made_jump, interval.made_jump)),
        point=select(keep, point, now.point),
        controller_state=adapted.controller_state,
        num_steps=now.num_steps + 1,
        num_accepted=now.num_accepted + keep.astype(jnp.int32),
        result=adapted.result,
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
    held = jnp.minimum(rows, n - 1)
    loop = _Loop(
        rows=jnp.minimum(rows, n),
        queue=jnp.asarray(min(lanes, n)),
        progress=take(firsts, held),
        saved=take(blank, held),
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
