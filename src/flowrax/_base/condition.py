"""Conditions: one for all samples, or one for each sample."""

import equinox as eqx
import jax

from .arrays import as_leaf
from .rows import check_finite_leaves, row_arrays
from .typing import Condition, DType, PyTree


class Batched(eqx.Module):
    """Marks a condition with a leading axis of length n on every leaf: sample i is conditioned on row i.

    **Attributes:**

    - `value`: The conditions, a PyTree whose leaves have shape `(n, ...)`.
    """

    value: PyTree


def cast_condition(condition: Condition | Batched, dtype: DType, n: int) -> Condition | Batched:
    """Converts the leaves to arrays, floating ones to `dtype`; raises `ValueError` unless `Batched` has `n` rows."""
    rows = condition.value if isinstance(condition, Batched) else condition
    if isinstance(condition, Batched):
        rows = row_arrays("condition", rows)
    rows = jax.tree.map(lambda leaf: as_leaf("condition", leaf, dtype), rows)
    check_finite_leaves("condition", rows)
    if not isinstance(condition, Batched):
        return rows
    for leaf in jax.tree.leaves(rows):
        if leaf.ndim == 0 or leaf.shape[0] != n:
            raise ValueError(
                f"condition=Batched(...) has a leaf of shape {leaf.shape}; its leading axis must be n={n}."
            )
    return Batched(rows)


def split_condition(condition: Condition | Batched) -> tuple[Condition, PyTree]:
    """The shared condition, and the rows to map over; one of the two is None."""
    return (None, condition.value) if isinstance(condition, Batched) else (condition, None)


def condition_of(shared: Condition, row: PyTree) -> Condition:
    """The condition of one sample, from `split_condition`'s shared part and this sample's row."""
    return shared if row is None else row
