"""Adaptive solves of many samples on a fixed number of lanes: a lane whose sample is done takes the next one.

Every lane steps one sample with its own step size and its own error control. The lanes advance together, so that a
step is one evaluation of a batch; no lane waits for the slowest sample.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._result import RESULTS
from .._typing import Array, Int, PyTree
from ..stepper.march import any_in_batch
from .batch import Batch
from .bound import Progress
from .record import Record, capacity_for, empty_points
from .trees import num_rows, put, select, take


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


class _Lanes(eqx.Module):
    """The samples that the lanes work through."""

    batch: Batch
    firsts: Progress
    """The first progress of every sample."""
    blank: Any
    """The empty room for each sample's saved values."""

    def attempt(self, start: PyTree, now: Progress, saved: Any) -> tuple[Progress, Array, Array, Outcome]:
        """One attempted step of one sample: its progress, whether the step was accepted and the last, the outcome."""
        sample, saver = self.batch.bind(start), self.batch.method.saver
        after, kept, dense = sample.attempt(now)
        if saver is not None:
            saved = saver.save(sample, now.interval, now.num_accepted, after.point.y, dense, kept, saved)
        over, result = after.ending(sample.stepping)
        outcome = Outcome(after.point.y, saved, after.num_steps, after.num_accepted, result)
        return after, kept, over, outcome

    def advance(self, loop: _Loop) -> _Loop:
        """One attempted step on every lane; samples that are over give way to the next ones."""
        n = num_rows(self.batch.starts)
        busy = loop.rows < n
        start = take(self.batch.starts, jnp.minimum(loop.rows, n - 1))
        after, kept, over, ended = jax.vmap(self.attempt)(start, loop.progress, loop.saved)
        over, record = over & busy, loop.record
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
            progress=select(fresh, take(self.firsts, following), progress),
            saved=select(fresh, take(self.blank, following), ended.saved),
            outcome=put(loop.outcome, jnp.where(over, loop.rows, n), ended),
            record=record,
            meter=self.batch.method.meter.step(loop.meter, (queue - jnp.sum(rows < n)) / n),
        )


def solve_lanes(batch: Batch, recording: bool) -> tuple[Outcome, Record | None]:
    """Solves every sample of the batch; with `recording`, also keeps what a backward pass needs."""
    n, lanes = num_rows(batch.starts), batch.method.lanes
    chunks = -(-n // lanes)
    rows = jnp.minimum(jnp.arange(chunks * lanes), n - 1).reshape(chunks, lanes)
    first = jax.lax.map(lambda rows: jax.vmap(batch.first)(take(batch.starts, rows)), rows)
    firsts, blank = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:n], first)
    queue = jnp.arange(lanes)
    loop = _Loop(
        rows=queue,
        queue=jnp.asarray(lanes),
        progress=take(firsts, queue),
        saved=take(blank, queue),
        outcome=Outcome(firsts.point.y, blank, firsts.num_steps, firsts.num_accepted, firsts.result),
        record=_empty_record(firsts, batch.method.stepping.max_steps) if recording else None,
        meter=batch.method.meter.init(),
    )
    work = _Lanes(batch, firsts, blank)
    loop = jax.lax.while_loop(lambda loop: any_in_batch(jnp.any(loop.rows < n)), lambda loop: work.advance(loop), loop)
    batch.method.meter.close(loop.meter)
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
