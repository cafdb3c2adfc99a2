"""Rows of PyTrees whose leaves share their leading axis: reading, writing, choosing, and mapping a few at a time."""

import operator
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from .._base.typing import Array, PyTree

T = TypeVar("T")


def select(condition: Array, yes: PyTree, no: PyTree) -> PyTree:
    """`yes` where the condition holds, leaf by leaf; the axes of the condition are the first axes of each leaf."""

    def one(yes: Any, no: Array) -> Array:
        yes = jnp.asarray(yes)
        return jnp.where(condition.reshape(condition.shape + (1,) * (yes.ndim - condition.ndim)), yes, no)

    return jax.tree.map(one, yes, no)


def put(tree: PyTree, index: Any, rows: PyTree) -> PyTree:
    """Writes rows; an index out of range writes nothing."""
    return jax.tree.map(lambda leaf, row: leaf.at[index].set(row, mode="drop"), tree, rows)


def take(tree: PyTree, rows: Any) -> PyTree:
    """The given rows of every leaf."""
    return jax.tree.map(operator.itemgetter(rows), tree)


def count_rows(tree: PyTree) -> int:
    """The length of the leading axis that all leaves share."""
    return jax.tree.leaves(tree)[0].shape[0]


def in_lanes(function: Callable[[PyTree], T], rows: PyTree, lanes: int | None) -> T:
    """`function(rows)`, evaluated for at most `lanes` rows at a time to bound memory; None for all at once.

    `function` maps rows to rows: every leaf of its argument and of its answer has one row per sample.
    """
    if lanes is None or lanes >= count_rows(rows):
        return function(rows)

    def one(row: PyTree) -> T:
        return take(function(take(row, None)), 0)

    return jax.lax.map(one, rows, batch_size=lanes)
