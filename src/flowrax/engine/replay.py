"""The exact gradient of a solve: backwards through the steps that it accepted.

Step sizes are constants of the discrete solve. Samples are taken in the order of their number of steps, so that those
that go backwards together are about equally long.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._typing import Array, PyTree
from .problem import Interval, Point, Problem, put, select, take
from .record import Record
from .saving import Saver


class Cotangents(eqx.Module):
    """Of what a solve returns, each with a leading axis `n`; None for `saved` where there is none."""

    y: PyTree
    saved: PyTree


class _Backward(eqx.Module):
    """What does not change on the way back through some rows."""

    problem: Problem
    saver: Saver
    shared: PyTree
    starts: PyTree
    wanted: PyTree
    """Which leaves of `(shared, starts)` need a cotangent."""
    intervals: Interval
    anchors: Point
    counts: Array
    saved: PyTree

    def last_step(self, k: Array) -> Array:
        """Step `k`, or the last step of a row that has fewer."""
        return jnp.clip(jnp.minimum(k, self.counts - 1), 0)

    def interval(self, k: Array) -> Interval:
        """Of [`last_step`][]."""
        return jax.tree.map(lambda leaf: _pick(leaf, self.last_step(k)), self.intervals)

    def forward(self, k: Array, points: Point) -> Point:
        """All rows over step `k`."""

        def one(start: PyTree, interval: Interval, point: Point) -> Point:
            return self.problem.step(self.shared, start, interval, point)[0]

        return jax.vmap(one)(self.starts, self.interval(k), points)

    def through(self, function: Any, points: PyTree, cotangents: PyTree) -> tuple[PyTree, PyTree]:
        """Cotangents of what is wanted and of `points` from those of `function(shared, starts, points)`."""
        wanted, fixed = eqx.partition((self.shared, self.starts), self.wanted)
        points, fixed_points = eqx.partition(points, eqx.is_inexact_array)

        def of(wanted: PyTree, points: PyTree) -> PyTree:
            out = function(*eqx.combine(wanted, fixed), eqx.combine(points, fixed_points))
            return eqx.filter(out, eqx.is_inexact_array)

        return jax.vjp(of, wanted, points)[1](cotangents)

    def pull(self, k: Array, points: Point, after: PyTree, saved: PyTree) -> tuple[PyTree, PyTree]:
        """Cotangents of what is wanted and of the points before step `k`."""
        interval = self.interval(k)
        until = jnp.where(k > 0, self.interval(jnp.maximum(k - 1, 0)).t1, -jnp.inf)

        def step(shared: PyTree, starts: PyTree, points: Point) -> PyTree:
            def one(start: PyTree, interval: Interval, until: Array, point: Point) -> Any:
                after, _, dense, _ = self.problem.step(shared, start, interval, point)
                if saved is None:
                    return after, None
                room = self.saver.unreached(self.saver.blank(self.problem, shared, start), until)
                room = self.saver.save(
                    self.problem, shared, start, interval, k, after.y, dense, jnp.asarray(True), room
                )
                assert room is not None
                return after, room.values

            return jax.vmap(one)(starts, interval, until, points)

        return self.through(step, points, (after, saved))

    def pull_first(self, cotangents: PyTree) -> PyTree:
        """Cotangents of what is wanted from those of the points before the first step."""
        first = self.interval(jnp.zeros((), jnp.int32))

        def begin(shared: PyTree, starts: PyTree, _: None) -> PyTree:
            def one(start: PyTree, interval: Interval) -> Any:
                point = self.problem.begin(shared, start, interval)
                if self.saved is None:
                    return point, None
                blank = self.saver.blank(self.problem, shared, start)
                assert blank is not None
                return point, blank.values

            return jax.vmap(one)(starts, first)

        return self.through(begin, None, (cotangents, self.saved))[0]


def _pick(leaf: Array, index: Array) -> Array:
    return leaf[index, jnp.minimum(jnp.arange(index.shape[0]), leaf.shape[1] - 1)]


def _columns(tree: PyTree, columns: Array) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[:, columns], tree)


def _zeros(tree: PyTree) -> PyTree:
    return jax.tree.map(jnp.zeros_like, tree)


def _add(left: PyTree, right: PyTree) -> PyTree:
    return jax.tree.map(jnp.add, left, right)


def _walk(back: _Backward, recent: Point, end: PyTree) -> PyTree:
    """Cotangents of what is wanted, from that of where some rows end; segment by segment of `capacity` steps."""
    capacity = jax.tree.leaves(recent)[0].shape[0]
    longest = jnp.max(back.counts)
    last = back.last_step(longest) // capacity
    blank = _zeros(eqx.filter(jax.tree.map(lambda leaf: leaf[0], recent), eqx.is_inexact_array))

    def segment(carry: Any) -> Any:
        number, recent, cotangents, sums = carry
        recent = _refill(back, recent, number, last > number)

        def step(carry: Any) -> Any:
            j, cotangents, sums = carry
            k = number * capacity + j
            # A row that is shorter goes over its own last step, without a cotangent.
            active = k < back.counts
            points = jax.tree.map(lambda leaf: _pick(leaf, back.last_step(k) % capacity), recent)
            after = select(active, cotangents, _zeros(cotangents))
            saved = select(active, back.saved, _zeros(back.saved))
            wanted_bar, points_bar = back.pull(k, points, after, saved)
            return j - 1, select(active, points_bar, cotangents), _add(sums, wanted_bar)

        top = jnp.minimum(capacity, longest - number * capacity) - 1
        _, cotangents, sums = jax.lax.while_loop(lambda carry: carry[0] >= 0, step, (top, cotangents, sums))
        return number - 1, recent, cotangents, sums

    sums = _zeros(eqx.filter((back.shared, back.starts), back.wanted))
    number = (jnp.maximum(longest, 1) - 1) // capacity
    carry = (number, recent, eqx.tree_at(lambda p: p.y, blank, end), sums)
    _, _, cotangents, sums = jax.lax.while_loop(lambda carry: carry[0] >= 0, segment, carry)
    return _add(sums, back.pull_first(cotangents))


def _refill(back: _Backward, recent: Point, number: Array, again: Array) -> Point:
    """`recent` for segment `number`: solved again from its anchor where a row has gone on since."""
    capacity = jax.tree.leaves(recent)[0].shape[0]

    def step(j: Array, carry: tuple[Point, Point]) -> tuple[Point, Point]:
        recent, points = carry
        kept = jax.tree.map(lambda leaf: leaf[j], recent)
        recent = jax.tree.map(lambda leaf, row: leaf.at[j].set(row), recent, select(again, points, kept))
        return recent, back.forward(number * capacity + j, points)

    anchors = jax.tree.map(lambda leaf: leaf[number], back.anchors)
    return jax.lax.fori_loop(0, jnp.where(jnp.any(again), capacity, 0), step, (recent, anchors))[0]


def pull_back(
    problem: Problem,
    saver: Saver,
    shared: PyTree,
    starts: PyTree,
    wanted: PyTree,
    record: Record,
    counts: Array,
    cotangents: Cotangents,
    lanes: int,
) -> PyTree:
    """Cotangents of `(shared, starts)` where `wanted`, None elsewhere.

    `counts` are the accepted steps of each sample; a sample with none of them does not count.
    """
    n = counts.shape[0]
    lanes = min(lanes, n)
    chunks = -(-n // lanes)
    order = jnp.concatenate([jnp.argsort(-counts), jnp.full(chunks * lanes - n, n)])
    on_grid = record.intervals.t0.shape[1] != n

    def chunk(number: Array, sums: PyTree) -> PyTree:
        rows = jax.lax.dynamic_slice_in_dim(order, number * lanes, lanes)
        there = (rows < n) & (counts[jnp.minimum(rows, n - 1)] > 0)
        # In place of a sample that failed goes one that did not: no cotangent of zero makes up for its NaN.
        some = jnp.where(there, rows, order[0])
        mine = select(there, take(cotangents, some), _zeros(take(cotangents, some)))
        back = _Backward(
            problem=problem,
            saver=saver,
            shared=shared,
            starts=take(starts, some),
            wanted=wanted,
            intervals=record.intervals if on_grid else _columns(record.intervals, some),
            anchors=_columns(record.anchors, some),
            counts=jnp.where(there, counts[some], 0),
            saved=mine.saved,
        )
        shared_bar, starts_bar = _walk(back, _columns(record.recent, some), mine.y)
        return _add(sums[0], shared_bar), put(sums[1], jnp.where(there, rows, n), starts_bar)

    sums = _zeros(eqx.filter((shared, starts), wanted))
    return jax.lax.fori_loop(0, chunks, chunk, sums)
