"""The exact gradient of a solve: backwards through the steps that it accepted.

Step sizes are constants of the discrete solve. Samples go backwards in the order of their number of steps, so
that those that go together are about equally long.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._base.typing import Array, PyTree
from .batch import Batch
from .bound_sample import Interval, Point
from .record import Record
from .trees import put, select, take


class Cotangents(eqx.Module):
    """Cotangents of the end states and of the saved values, each with a leading axis `n`; None for no saved values."""

    y: PyTree
    saved: PyTree


class _Backward(eqx.Module):
    """The constants of the way back through some rows."""

    batch: Batch
    """The rows, with the equation that all samples share."""
    wanted: PyTree
    """Which leaves of `(equation, starts)` need a cotangent."""
    intervals: Interval
    anchors: Point
    counts: Array
    saved: PyTree

    def last_step(self, k: Array) -> Array:
        """Step `k`, or the last step of a row that has fewer."""
        return jnp.clip(jnp.minimum(k, self.counts - 1), 0)

    def interval(self, k: Array) -> Interval:
        """The interval of [`last_step`][]."""
        return jax.tree.map(lambda leaf: _pick(leaf, self.last_step(k)), self.intervals)

    def forward(self, k: Array, points: Point) -> Point:
        """The points of all rows after step `k`."""

        def one(start: PyTree, interval: Interval, point: Point) -> Point:
            return self.batch.bind(start).step(interval, point)[0]

        return jax.vmap(one)(self.batch.starts, self.interval(k), points)

    def through(self, function: Any, points: PyTree, cotangents: PyTree) -> tuple[PyTree, PyTree]:
        """Cotangents of the wanted leaves and of `points` from those of `function(batch, points)`."""
        own = self.batch.equation, self.batch.starts
        wanted, fixed = eqx.partition(own, self.wanted)
        points, fixed_points = eqx.partition(points, eqx.is_inexact_array)

        def of(wanted: PyTree, points: PyTree) -> PyTree:
            batch = eqx.tree_at(lambda b: (b.equation, b.starts), self.batch, eqx.combine(wanted, fixed))
            return eqx.filter(function(batch, eqx.combine(points, fixed_points)), eqx.is_inexact_array)

        return jax.vjp(of, wanted, points)[1](cotangents)

    def pull(self, k: Array, points: Point, after: PyTree, saved: PyTree) -> tuple[PyTree, PyTree]:
        """Cotangents of the wanted leaves and of the points before step `k`."""
        interval, saver = self.interval(k), self.batch.method.saver
        until = jnp.where(k > 0, self.interval(jnp.maximum(k - 1, 0)).t1, -jnp.inf)

        def step(batch: Batch, points: Point) -> PyTree:
            def one(start: PyTree, interval: Interval, until: Array, point: Point) -> Any:
                sample = batch.bind(start)
                after, _, dense, _ = sample.step(interval, point)
                if saved is None:
                    return after, None
                assert saver is not None
                room = saver.unreached(saver.blank(sample), until)
                return after, saver.save(sample, interval, k, after.y, dense, jnp.asarray(True), room).values

            return jax.vmap(one)(batch.starts, interval, until, points)

        return self.through(step, points, (after, saved))

    def pull_first(self, cotangents: PyTree) -> PyTree:
        """Cotangents of the wanted leaves from those of the points before the first step."""
        first, saver = self.interval(jnp.zeros((), jnp.int32)), self.batch.method.saver

        def begin(batch: Batch, _: None) -> PyTree:
            def one(start: PyTree, interval: Interval) -> Any:
                sample = batch.bind(start)
                if self.saved is None:
                    return sample.begin(interval), None
                assert saver is not None
                return sample.begin(interval), saver.blank(sample).values

            return jax.vmap(one)(batch.starts, first)

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
    """Cotangents of the wanted leaves, from those of the end states; segment by segment of `capacity` steps."""
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
            # A shorter row repeats its own last step, with cotangents of zero.
            active = k < back.counts
            points = jax.tree.map(lambda leaf: _pick(leaf, back.last_step(k) % capacity), recent)
            after = select(active, cotangents, _zeros(cotangents))
            saved = select(active, back.saved, _zeros(back.saved))
            wanted_bar, points_bar = back.pull(k, points, after, saved)
            return j - 1, select(active, points_bar, cotangents), _add(sums, wanted_bar)

        top = jnp.minimum(capacity, longest - number * capacity) - 1
        _, cotangents, sums = jax.lax.while_loop(lambda carry: carry[0] >= 0, step, (top, cotangents, sums))
        return number - 1, recent, cotangents, sums

    sums = _zeros(eqx.filter((back.batch.equation, back.batch.starts), back.wanted))
    number = (jnp.maximum(longest, 1) - 1) // capacity
    carry = (number, recent, eqx.tree_at(lambda p: p.y, blank, end), sums)
    _, _, cotangents, sums = jax.lax.while_loop(lambda carry: carry[0] >= 0, segment, carry)
    return _add(sums, back.pull_first(cotangents))


def _refill(back: _Backward, recent: Point, number: Array, again: Array) -> Point:
    """The points of segment `number`; where later ones have replaced them, they are solved again from the anchor."""
    capacity = jax.tree.leaves(recent)[0].shape[0]

    def step(j: Array, carry: tuple[Point, Point]) -> tuple[Point, Point]:
        recent, points = carry
        kept = jax.tree.map(lambda leaf: leaf[j], recent)
        recent = jax.tree.map(lambda leaf, row: leaf.at[j].set(row), recent, select(again, points, kept))
        return recent, back.forward(number * capacity + j, points)

    anchors = jax.tree.map(lambda leaf: leaf[number], back.anchors)
    return jax.lax.fori_loop(0, jnp.where(jnp.any(again), capacity, 0), step, (recent, anchors))[0]


def pull_back(batch: Batch, wanted: PyTree, record: Record, counts: Array, cotangents: Cotangents) -> PyTree:
    """Cotangents of `(equation, starts)` where `wanted`, None elsewhere.

    `counts` are the accepted steps of each sample; a sample without any is left out.
    """
    n, lanes = counts.shape[0], batch.method.lanes
    chunks = -(-n // lanes)
    order = jnp.concatenate([jnp.argsort(-counts), jnp.full(chunks * lanes - n, n)])
    on_grid = record.intervals.t0.shape[1] != n

    def chunk(number: Array, sums: PyTree) -> PyTree:
        rows = jax.lax.dynamic_slice_in_dim(order, number * lanes, lanes)
        there = (rows < n) & (counts[jnp.minimum(rows, n - 1)] > 0)
        # Replace failed samples with a successful one: 0 * NaN is still NaN.
        some = jnp.where(there, rows, order[0])
        mine = select(there, take(cotangents, some), _zeros(take(cotangents, some)))
        back = _Backward(
            batch=eqx.tree_at(lambda b: b.starts, batch, take(batch.starts, some)),
            wanted=wanted,
            intervals=record.intervals if on_grid else _columns(record.intervals, some),
            anchors=_columns(record.anchors, some),
            counts=jnp.where(there, counts[some], 0),
            saved=mine.saved,
        )
        equation_bar, starts_bar = _walk(back, _columns(record.recent, some), mine.y)
        return _add(sums[0], equation_bar), put(sums[1], jnp.where(there, rows, n), starts_bar)

    sums = _zeros(eqx.filter((batch.equation, batch.starts), wanted))
    total = jax.lax.fori_loop(0, chunks, chunk, sums)
    # Where all samples failed there was none to put in their place.
    return select(jnp.any(counts > 0), total, sums)
