"""Solves of many samples on one grid of steps, all at once."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._base.result import RESULTS
from .._base.typing import Array, PyTree
from .batch import Batch
from .bound_sample import Interval, Point
from .lanes import Outcome
from .record import Record, capacity_for, empty_points
from .stepping import Stepping
from .trees import count_rows, in_lanes, put


def grid_intervals(stepping: Stepping) -> Interval:
    """The steps of the grid, leading axis `k`."""
    grid = stepping.grid
    assert grid is not None
    times = -grid if stepping.backward else grid
    return Interval(times[:-1], times[1:], jnp.zeros(len(times) - 1, bool))


class _Scan(eqx.Module):
    points: Point
    saved: Any
    result: RESULTS
    kept: tuple[Point, Point] | None
    meter: Any


def solve_fixed(batch: Batch, recording: bool) -> tuple[Outcome, Record | None]:
    """Solves every sample of the batch; with `recording`, also keeps what a backward pass needs."""
    if recording:
        return _together(batch, recording=True)

    def solve(starts: PyTree) -> Outcome:
        own = eqx.tree_at(lambda batch: batch.starts, batch, starts)
        return _together(own, recording=False)[0]

    return in_lanes(solve, batch.starts, batch.method.lanes), None


def _together(batch: Batch, *, recording: bool) -> tuple[Outcome, Record | None]:
    n, steps, saver, meter = (
        count_rows(batch.starts),
        batch.method.stepping.max_steps,
        batch.method.saver,
        batch.method.meter,
    )
    intervals = grid_intervals(batch.method.stepping)
    first = jax.tree.map(lambda leaf: leaf[0], intervals)

    def begin(start: PyTree) -> tuple[Point, Any]:
        sample = batch.bind(start)
        return sample.begin(first), None if saver is None else saver.blank(sample)

    points, blank = jax.vmap(begin)(batch.starts)
    capacity = capacity_for(points, steps)
    scan = _Scan(
        points=points,
        saved=blank,
        result=jax.vmap(lambda _: RESULTS.successful)(jnp.arange(n)),
        kept=empty_points(points, steps, capacity) if recording else None,
        meter=meter.init(),
    )

    def body(scan: _Scan, xs: tuple[Array, Interval]) -> tuple[_Scan, None]:
        count, interval = xs

        def step(start: PyTree, point: Point, saved: Any, result: RESULTS) -> Any:
            sample = batch.bind(start)
            after, _, dense, code = sample.step(interval, point)
            if saver is not None:
                saved = saver.save(sample, interval, count, after.y, dense, jnp.asarray(True), saved)
            return after, saved, RESULTS.where(result == RESULTS.successful, code, result)

        points, saved, result = jax.vmap(step)(batch.starts, scan.points, scan.saved, scan.result)
        kept = scan.kept
        if kept is not None:
            recent, anchors = kept
            anchored = jnp.where(count % capacity == 0, count // capacity, steps)
            kept = put(recent, count % capacity, scan.points), put(anchors, anchored, scan.points)
        return _Scan(points, saved, result, kept, meter.step(scan.meter, (count + 1) / steps)), None

    scan, _ = jax.lax.scan(body, scan, (jnp.arange(steps), intervals))
    meter.close(scan.meter)
    num_steps = jnp.full(n, steps, jnp.int32)
    outcome = Outcome(scan.points.y, scan.saved, num_steps, num_steps, scan.result)
    if scan.kept is None:
        return outcome, None
    alone = jax.tree.map(lambda leaf: leaf[:, None], intervals)
    return outcome, Record(alone, *scan.kept)
