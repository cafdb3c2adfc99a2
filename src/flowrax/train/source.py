"""Sources of batches for `fit` other than arrays in memory: arrays in files, and iterators."""

import abc
import mmap
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._base.rows import check_rows, leaf_name, row_arrays
from .._base.typing import Array, KeyArray
from .prepare import DATA, Given
from .step import drawn

Take = Callable[[], tuple[Given, Given, np.ndarray | None] | None]
"""Reads one batch, its names and the numbers of its rows; None after the last batch."""


class AbstractSource(abc.ABC):
    """A source of batches."""

    size: int | None = None
    """The number of rows, if it is known."""

    @abc.abstractmethod
    def takes(self, batch_size: int, key: KeyArray, start: int, count: int) -> list[Take]:
        """Functions that read the batches of `count` steps, which are called in the order of the steps."""


class StoredRows(AbstractSource):
    """Arrays in files. The batches are the same as for arrays in memory."""

    def __init__(self, given: Given) -> None:
        self.given = Given(*(_opened(name, tree) for name, tree in zip(DATA, given, strict=True)))
        leaves = jax.tree.leaves(self.given.rows)
        if not leaves[0].shape:
            raise ValueError("data is one value but an array of rows is expected.")
        n = self.size = int(leaves[0].shape[0])
        for name, tree in zip(DATA, self.given, strict=True):
            check_rows(name, tree, n, "data")

    def takes(self, batch_size: int, key: KeyArray, start: int, count: int) -> list[Take]:
        steps = start + jnp.arange(count, dtype=jnp.int32)
        batches = np.asarray(_drawn(batch_size, key, steps, self.size)) if self.size else np.zeros((count, 0), int)

        def take(rows: np.ndarray) -> tuple[Given, Given, np.ndarray]:
            # Rows are read in increasing order, which some kinds of files require.
            own, where = np.unique(rows, return_inverse=True)
            return jax.tree.map(lambda leaf: np.asarray(leaf[own])[where], self.given), DATA, rows

        return [lambda rows=rows: take(rows) for rows in batches]


class Batches(AbstractSource):
    """An iterable of batches. An iterable that is not an iterator, such as a data loader, starts again at its end."""

    def __init__(self, batches: Iterable[Any]) -> None:
        self.iterator = _epochs(batches)
        self.count = 0

    def takes(self, batch_size: int, key: KeyArray, start: int, count: int) -> list[Take]:
        return [self._next] * count

    def skip(self, count: int) -> None:
        """Skips batches that an earlier run has used."""
        for _ in range(count):
            next(self.iterator, None)
        self.count += count

    def _next(self) -> tuple[Given, Given, None] | None:
        name = f"batch {self.count} of data"
        for batch in self.iterator:
            self.count += 1
            # Some iterators reuse one array for all batches.
            batch = jax.tree.map(lambda leaf: leaf.copy() if isinstance(leaf, np.ndarray) else leaf, batch)
            return _unpacked(name, batch), Given(name, f"the condition of {name}"), None
        return None


def source_of(given: Given) -> AbstractSource | None:
    """The source of batches for rows that are not in memory, None for arrays in memory."""
    for name, value in zip(DATA[1:], given[1:], strict=True):
        if is_iterable(value):
            raise ValueError(f"{name} is an iterator, but an array is expected; data may yield (rows, condition).")
    if not is_iterable(given.rows):
        return StoredRows(given) if any(map(is_stored, jax.tree.leaves(given))) else None
    if given.condition is not None or given.x0 is not None:
        raise ValueError(
            "data is an iterator of batches, to which condition and x0 do not apply; let it yield (rows, condition)."
        )
    return Batches(given.rows)


def is_iterable(data: Any) -> bool:
    """Whether `data` is an iterator or another iterable of batches, rather than rows."""
    if isinstance(data, str | bytes | list | tuple | Mapping | type) or hasattr(data, "shape"):
        return False
    return isinstance(data, Iterable) and not hasattr(data, "to_numpy")


def is_stored(leaf: Any) -> bool:
    """Whether an array is in a file: memory-mapped, or read by `leaf[rows]` such as data sets of h5py and zarr."""
    if isinstance(leaf, np.ndarray):
        return _mapping(leaf) is not None
    is_array_like = all(hasattr(leaf, name) for name in ("shape", "dtype", "__getitem__"))
    in_memory = isinstance(leaf, jax.Array | np.generic) or any(hasattr(leaf, n) for n in ("to_numpy", "__dlpack__"))
    return is_array_like and not in_memory


def _mapping(leaf: Any) -> mmap.mmap | None:
    """The memory map that holds an array."""
    while isinstance(leaf, np.ndarray):
        leaf = leaf.base
    return leaf if isinstance(leaf, mmap.mmap) else None


def _opened(name: str, tree: Any) -> Any:
    """The arrays of a tree; arrays in files are not read."""

    def one(path: Any, leaf: Any) -> Any:
        if (mapping := _mapping(leaf)) is not None and hasattr(mmap, "MADV_RANDOM"):
            # Otherwise the system also reads the neighbours of each row, about ten times as much.
            mapping.madvise(mmap.MADV_RANDOM)
        return leaf if is_stored(leaf) else np.asarray(row_arrays(leaf_name(name, path), leaf))

    return jax.tree_util.tree_map_with_path(one, tree, is_leaf=lambda node: isinstance(node, list))


def _epochs(batches: Iterable[Any]) -> Iterator[Any]:
    if isinstance(batches, Iterator):
        yield from batches
        return
    empty = False
    while not empty:
        empty = True
        for batch in batches:
            empty = False
            yield batch


def _unpacked(name: str, batch: Any) -> Given:
    """One batch: rows, or rows and their condition."""
    if isinstance(batch, list) and not all(hasattr(part, "shape") for part in batch):
        return Given(batch)
    if not isinstance(batch, tuple | list):
        return Given(batch)
    if len(batch) not in (1, 2):
        raise ValueError(f"{name} is a tuple of {len(batch)}, but rows or (rows, condition) are expected.")
    return Given(*batch)


@eqx.filter_jit
def _drawn(batch_size: int, key: KeyArray, steps: Array, size: int) -> Array:
    """The rows of the batches of several steps, the same as for arrays in memory."""
    return jax.vmap(lambda step: drawn(key, step, batch_size, size)[0])(steps)
