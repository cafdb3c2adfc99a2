"""Solves of many samples on one grid of steps, all at once."""

from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp

from .._result import RESULTS
from .._typing import Array, PyTree
from .lanes import Outcome
from .problem import Interval, Point, Problem, put
from .record import Record, capacity_for, empty_points
from .saving import Saver


def grid_intervals(problem: Problem) -> Interval:
    """The steps of the grid, leading axis `k`."""
    grid = problem.stepping.grid
    assert grid is not None
    times = -grid if problem.stepping.backward else grid
    return Interval(times[:-1], times[1:], jnp.zeros(len(times) - 1, bool))


class _Scan(eqx.Module):
    points: Point
    saved: Any
    result: RESULTS
    kept: tuple[Point, Point] | None
    meter: Any


def solve_fixed(
    problem: Problem,
    saver: Saver,
    shared: PyTree,
    starts: PyTree,
    *,
    recording: bool,
    meter: dfx.AbstractProgressMeter,
) -> tuple[Outcome, Record | None]:
    """Solves every sample of `starts`; with `recording`, also keeps what a backward pass needs."""
    n = jax.tree.leaves(starts[0])[0].shape[0]
    intervals = grid_intervals(problem)
    steps = problem.stepping.max_steps
    first = jax.tree.map(lambda leaf: leaf[0], intervals)
    points = jax.vmap(lambda start: problem.begin(shared, start, first))(starts)
    capacity = capacity_for(points, steps)
    scan = _Scan(
        points=points,
        saved=jax.vmap(lambda start: saver.blank(problem, shared, start))(starts),
        result=jax.vmap(lambda _: RESULTS.successful)(jnp.arange(n)),
        kept=empty_points(points, steps, capacity) if recording else None,
        meter=meter.init(),
    )

    def body(scan: _Scan, xs: tuple[Array, Interval]) -> tuple[_Scan, None]:
        count, interval = xs

        def step(start: PyTree, point: Point, saved: Any, result: RESULTS) -> Any:
            after, _, dense, code = problem.step(shared, start, interval, point)
            saved = saver.save(problem, shared, start, interval, count, after.y, dense, jnp.asarray(True), saved)
            return after, saved, RESULTS.where(result == RESULTS.successful, code, result)

        points, saved, result = jax.vmap(step)(starts, scan.points, scan.saved, scan.result)
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
