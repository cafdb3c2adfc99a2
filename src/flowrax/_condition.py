"""One condition for all samples, or one for each."""

import equinox as eqx
import jax
import jax.numpy as jnp

from ._typing import Condition, DType, PyTree


class Batched(eqx.Module):
    """Marks a condition that has a leading axis of length n on every leaf: row i conditions sample i."""

    value: PyTree


def cast_condition(condition: Condition | Batched, dtype: DType, n: int) -> Condition | Batched:
    """Makes the leaves arrays, floating ones of `dtype`; raises `ValueError` unless `Batched` leaves have `n` rows."""

    def cast(leaf: object) -> object:
        array = jnp.asarray(leaf)
        return array.astype(dtype) if jnp.issubdtype(array.dtype, jnp.inexact) else array

    condition = jax.tree.map(cast, condition)
    if isinstance(condition, Batched):
        for leaf in jax.tree.leaves(condition):
            if leaf.ndim == 0 or leaf.shape[0] != n:
                raise ValueError(
                    f"condition=Batched(...) has a leaf of shape {leaf.shape}; its leading axis must be n={n}."
                )
    return condition


def split_condition(condition: Condition | Batched) -> tuple[Condition, PyTree]:
    """What all samples share and the rows to map over: one of them is None."""
    return (None, condition.value) if isinstance(condition, Batched) else (condition, None)


def condition_of(shared: Condition, row: PyTree) -> Condition:
    """One sample's condition."""
    return shared if row is None else row
