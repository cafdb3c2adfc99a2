"""Checks of the rows of data and conditions, used by every function that takes them."""

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .arrays import as_real
from .checks import is_traced
from .typing import PyTree


def row_arrays(name: str, tree: PyTree) -> PyTree:
    """The leaves as arrays; a list of numbers and a data frame are one array.

    Raises `ValueError` with the argument's `name` for leaves that are not numbers.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_list_of_numbers)
    return jax.tree.unflatten(structure, [_array(leaf_name(name, path), leaf) for path, leaf in leaves])


def check_rows(name: str, tree: PyTree, n: int, of: str) -> None:
    """Raises `ValueError` unless every leaf has `n` rows, the number of rows of the argument `of`."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if not leaf.shape:
            raise ValueError(
                f"{leaf_name(name, path)} is one value but {of} has {n} rows; give one value for each row."
            )
        if leaf.shape[0] != n:
            raise ValueError(f"{leaf_name(name, path)} has {leaf.shape[0]} rows but {of} has {n}.")


def check_some(name: str, n: int) -> None:
    """Raises `ValueError` if there are no rows."""
    if n == 0:
        raise ValueError(f"{name} has no rows.")


def check_finite_leaves(
    name: str, tree: PyTree, columns: list[Any] | None = None, numbers: np.ndarray | None = None
) -> None:
    """Raises `ValueError` for NaN or infinity in a concrete leaf, with the position of the first.

    `columns` are the names of the columns, and `numbers` the numbers of the rows, where these are not `0, 1, ...`.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if is_traced(leaf) or not jnp.issubdtype(leaf.dtype, jnp.inexact):
            continue
        bad = ~np.isfinite(np.asarray(leaf, np.float64))
        if bad.any():
            raise ValueError(
                f"{leaf_name(name, path)} holds {bad.sum()} NaN or infinite values; remove or impute them first. "
                f"The first is in {_place(bad, columns, numbers)}."
            )


def columns_of(x: Any) -> list[Any] | None:
    """The names of the columns of a data frame, None for other rows."""
    return list(x.columns) if hasattr(x, "columns") else None


def leaf_name(name: str, path: Any) -> str:
    """The name of a leaf, such as `condition['mass']`."""
    return name + jax.tree_util.keystr(path)


def _is_list_of_numbers(node: Any) -> bool:
    return isinstance(node, list) and len(node) > 0 and all(np.isscalar(x) or _is_list_of_numbers(x) for x in node)


def _array(name: str, leaf: Any) -> Any:
    if hasattr(leaf, "to_numpy"):
        leaf = leaf.to_numpy()
        if leaf.dtype == object:
            # A data frame with columns of different dtypes.
            with contextlib.suppress(TypeError, ValueError):
                leaf = leaf.astype(np.float64)
    return as_real(name, leaf)


def _place(bad: np.ndarray, columns: list[Any] | None, numbers: np.ndarray | None) -> str:
    row, *rest = (int(i) for i in np.argwhere(np.atleast_1d(bad))[0])
    row = row if numbers is None else int(numbers[row])
    if not rest:
        return f"row {row}"
    if len(rest) > 1:
        return f"row {row}, element {tuple(rest)}"
    return f"row {row}, column {rest[0] if columns is None else repr(columns[rest[0]])}"
