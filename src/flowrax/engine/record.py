"""What a forward solve keeps so that its accepted steps can be taken again."""

import equinox as eqx
import jax
import jax.numpy as jnp

from .._base.typing import PyTree
from .bound_sample import Interval, Point

# Points are kept for every step where they fit into this many bytes, else for about the square root of the steps.
_BUDGET = 32 * 2**20


class Record(eqx.Module):
    """Step `k` of sample `i` went over `intervals[k, i]` (`[k, 0]` where all samples share a grid).

    The points from which its last steps started are in `recent[k % capacity, i]`, and those of every `capacity`-th step
    in `anchors[k // capacity, i]`.
    """

    intervals: Interval
    recent: Point
    anchors: Point

    @property
    def capacity(self) -> int:
        """The number of steps whose points `recent` holds."""
        return jax.tree.leaves(self.recent)[0].shape[0]


def capacity_for(points: PyTree, max_steps: int) -> int:
    """How many steps to keep: the square root of `max_steps`, or more while they are small."""
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(points))
    root = int(max_steps**0.5) + 1
    return min(max_steps, max(root, _BUDGET // max(size, 1)))


def empty_points(points: Point, max_steps: int, capacity: int) -> tuple[Point, Point]:
    """Room for `recent` and `anchors`, for points with a leading axis `n`."""

    def slots(num: int) -> Point:
        return jax.tree.map(lambda leaf: jnp.zeros((num, *leaf.shape), leaf.dtype), points)

    return slots(capacity), slots(-(-max_steps // capacity))
