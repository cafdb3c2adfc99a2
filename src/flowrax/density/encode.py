"""Conditions as the default network of a density estimator takes them: numbers, one-hot labels, and a flag.

The flag is one for every condition. `ConditionDropout` sets all to zero, the flag too, which no condition equals.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._base.checks import check_count, is_traced
from .._base.typing import Array, Condition, DType, PyTree

MOST_LABELS = 50
ROWS_PER_LABEL = 10

# Larger integers are not all numbers of single precision.
_LARGEST = 2**24


class Encoder(eqx.Module):
    """Tells labels and numbers apart among the integers of a condition, and encodes labels as one-hot vectors.

    An integer element of a condition has labels if at most 50 values occur, each in 10 rows on average, unless `labels`
    says otherwise.
    """

    tables: tuple[Array | None, ...]
    """The labels of each element of each leaf, `(*leaf, capacity)`, filled up with NaN; None for floating leaves."""
    labels: bool | int | None = eqx.field(static=True)
    capacity: int = eqx.field(static=True)

    def __init__(self, example: PyTree, labels: bool | int | None, dtype: DType) -> None:
        """**Arguments:**

        - `example`: one condition, of arrays.
        - `labels`: whether integers are labels, or how many labels there may be; None to decide by the data.
        - `dtype`: the dtype of the model.
        """
        self.labels, self.capacity = labels, 0 if labels is False else MOST_LABELS
        if labels is not None and not isinstance(labels, bool):
            self.labels = self.capacity = check_count("labels", labels)
        self.tables = tuple(
            None if jnp.issubdtype(leaf.dtype, jnp.inexact) else jnp.full((*leaf.shape, self.capacity), jnp.nan, dtype)
            for leaf in jax.tree.leaves(example)
        )

    @property
    def size(self) -> int:
        """The number of elements that label tables add to a condition, with the flag."""
        return 1 + sum(table.size for table in self.tables if table is not None)

    def learned(self, name: str, rows: PyTree) -> "Encoder":
        """The encoder with the labels that occur in `rows`. Raises `ValueError` for too many."""
        pairs = zip(self.tables, jax.tree.leaves(rows), strict=True)
        tables = tuple(None if table is None else self._table(name, table, np.asarray(leaf)) for table, leaf in pairs)
        return eqx.tree_at(lambda e: e.tables, self, tables)

    def _table(self, name: str, table: Array, rows: np.ndarray) -> Array:
        filled = np.full((int(np.prod(table.shape[:-1])), self.capacity), np.nan)
        for column, own in zip(rows.reshape(len(rows), -1).T, filled, strict=True):
            values = np.unique(column)
            few = len(values) <= self.capacity and np.max(np.abs(values)) < _LARGEST
            if self.labels is None:
                few = few and len(rows) >= ROWS_PER_LABEL * len(values)
            elif self.capacity and not few:
                raise ValueError(f"{name} has {len(values)} labels but {self.capacity} are allowed; pass labels=.")
            if few and self.capacity:
                own[: len(values)] = values
        return jnp.asarray(filled.reshape(table.shape), table.dtype)

    def __call__(self, name: str, raw: Condition, standard: PyTree, rows: tuple[int, ...]) -> tuple[Array, PyTree]:
        """The flag and the encoded condition, of the values `raw` that were standardised to `standard`.

        `rows` are their leading axes, empty or the number of rows.

        Raises `ValueError` for a label that did not occur in `fit`; a traced one gives NaN.
        """
        leaves, structure = jax.tree.flatten(standard)
        triples = zip(self.tables, jax.tree.leaves(raw), leaves, strict=True)
        encoded = [z if table is None else _encoded(name, table, x, z) for table, x, z in triples]
        return jnp.ones((*rows, 1), leaves[0].dtype), jax.tree.unflatten(structure, encoded)


def _encoded(name: str, table: Array, raw: Any, z: Array) -> Array:
    table = jnp.expand_dims(table, tuple(range(z.ndim + 1 - table.ndim)))
    matches = jnp.asarray(raw).astype(table.dtype)[..., None] == table
    has_labels = jnp.any(jnp.isfinite(table), axis=-1)
    known = jnp.any(matches, axis=-1) | ~has_labels
    if not is_traced(known) and not bool(jnp.all(known)):
        stray = np.asarray(raw)[~np.asarray(known)].ravel()[0]
        raise ValueError(
            f"{name} holds the label {stray:g}, which did not occur in fit; for numbers make the estimator with "
            "labels=False or with a floating-point example."
        )
    number = jnp.where(known, jnp.where(has_labels, jnp.zeros_like(z), z), jnp.nan)
    return jnp.concatenate([number[..., None], matches.astype(z.dtype)], axis=-1)
