"""Adaptive solves of many samples on a fixed number of lanes: a lane whose sample is done takes the next one.

Every lane steps one sample with its own step size and its own error control. The lanes advance together, so that a
step is one evaluation of a batch; no lane waits for the slowest sample.
"""

from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp

from .._result import RESULTS
from .._typing import Array, Int, PyTree
from ..stepper.march import any_in_batch
from .problem import Problem, Progress, put, select, take
from .record import Record, capacity_for, empty_points
from .saving import Saver


class Outcome(eqx.Module):
    """What a solve leaves of each sample; every leaf has a leading axis `n`."""

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


def _empty_record(firsts: Progress, max_steps: int) -> Record:
    """No steps yet; the first one is there, so that a sample without steps has one to look at."""
    intervals = jax.tree.map(lambda leaf: jnp.repeat(leaf[None], max_steps, 0), firsts.interval)
    recent, anchors = empty_points(firsts.point, max_steps, capacity_for(firsts.point, max_steps))
    return Record(intervals, jax.tree.map(lambda leaf, row: leaf.at[0].set(row), recent, firsts.point), anchors)


def _prepare(problem: Problem, shared: PyTree, starts: PyTree, lanes: int) -> Progress:
    """The first progress of every sample, computed `lanes` at a time."""
    n = jax.tree.leaves(starts[0])[0].shape[0]
    chunks = -(-n // lanes)
    rows = jnp.minimum(jnp.arange(chunks * lanes), n - 1).reshape(chunks, lanes)

    def chunk(rows: Array) -> Progress:
        return jax.vmap(lambda start: problem.first(shared, start))(take(starts, rows))

    first = jax.lax.map(chunk, rows)
    return jax.tree.map(lambda leaf: leaf.reshape(chunks * lanes, *leaf.shape[2:])[:n], first)


class _Work(eqx.Module):
    """What the lanes work on, and how."""

    problem: Problem
    saver: Saver
    shared: PyTree
    starts: PyTree
    firsts: Progress
    blank: Any
    meter: dfx.AbstractProgressMeter

    @property
    def n(self) -> int:
        """How many samples there are."""
        return self.firsts.num_steps.shape[0]

    def begin(self, lanes: int, recording: bool) -> _Loop:
        """The first `lanes` samples on their lanes."""
        rows, f = jnp.arange(lanes), self.firsts
        return _Loop(
            rows=rows,
            queue=jnp.asarray(lanes),
            progress=take(f, rows),
            saved=take(self.blank, rows),
            outcome=Outcome(f.point.y, self.blank, f.num_steps, f.num_accepted, f.result),
            record=_empty_record(f, self.problem.stepping.max_steps) if recording else None,
            meter=self.meter.init(),
        )

    def attempt(self, start: PyTree, now: Progress, saved: Any) -> tuple[Progress, Array, Any]:
        """One attempted step of one sample."""
        after, kept, dense = self.problem.attempt(self.shared, start, now)
        y = after.point.y
        saved = self.saver.save(self.problem, self.shared, start, now.interval, now.num_accepted, y, dense, kept, saved)
        return after, kept, saved

    def advance(self, loop: _Loop) -> _Loop:
        """One attempted step on every lane; samples that are over give way to the next ones."""
        n, busy = self.n, loop.rows < self.n
        start = take(self.starts, jnp.minimum(loop.rows, n - 1))
        after, kept, saved = jax.vmap(self.attempt)(start, loop.progress, loop.saved)
        record = loop.record
        if record is not None:
            record = _recorded(record, loop.progress, jnp.where(kept & busy, loop.rows, n))
        over = jax.vmap(self.problem.is_over)(after) & busy
        ended = Outcome(
            after.point.y, saved, after.num_steps, after.num_accepted, jax.vmap(self.problem.final_result)(after)
        )
        rows = jnp.where(over, jnp.minimum(loop.queue + jnp.cumsum(over) - 1, n), loop.rows)
        queue = jnp.minimum(loop.queue + jnp.sum(over), n)
        fresh, following = over & (rows < n), jnp.minimum(rows, n - 1)
        # A lane without a sample repeats its last step: a step that is known to be possible.
        progress = select(rows < n, after, loop.progress)
        return _Loop(
            rows=rows,
            queue=queue,
            progress=select(fresh, take(self.firsts, following), progress),
            saved=select(fresh, take(self.blank, following), saved),
            outcome=put(loop.outcome, jnp.where(over, loop.rows, n), ended),
            record=record,
            meter=self.meter.step(loop.meter, (queue - jnp.sum(rows < n)) / n),
        )


def solve_lanes(
    problem: Problem,
    saver: Saver,
    shared: PyTree,
    starts: PyTree,
    *,
    lanes: int,
    recording: bool,
    meter: dfx.AbstractProgressMeter,
) -> tuple[Outcome, Record | None]:
    """Solves every sample of `starts`; with `recording`, also keeps what a backward pass needs."""
    firsts = _prepare(problem, shared, starts, lanes)
    blank = jax.vmap(lambda start: saver.blank(problem, shared, start))(starts)
    work = _Work(problem, saver, shared, starts, firsts, blank, meter)
    loop = work.begin(lanes, recording)
    loop = jax.lax.while_loop(
        lambda loop: any_in_batch(jnp.any(loop.rows < work.n)), lambda loop: work.advance(loop), loop
    )
    meter.close(loop.meter)
    return loop.outcome, loop.record


def _recorded(record: Record, now: Progress, rows: Array) -> Record:
    k, capacity = now.num_accepted, record.capacity
    anchored = jnp.where(k % capacity == 0, rows, jnp.iinfo(rows.dtype).max)
    return Record(
        intervals=put(record.intervals, (k, rows), now.interval),
        recent=put(record.recent, (k % capacity, rows), now.point),
        anchors=put(record.anchors, (k // capacity, anchored), now.point),
    )
