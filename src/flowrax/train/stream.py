"""Batches of rows that are not in memory: a thread reads and checks the next batches while the device trains."""

import concurrent.futures
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._base.typing import KeyArray, PyTree
from .prepare import (
    DATA,
    VALIDATION,
    Given,
    Trainable,
    check_alike,
    check_augment,
    check_data_coupling,
    check_held_out,
    prepare_rows,
)
from .source import AbstractSource, Batches, Take, is_iterable, source_of
from .step import Augment, num_rows

_BATCH_SIZE = 256
_STEPS = 50

# Limits the size of the batches of one block; three such blocks are in memory, and one copy.
_MOST_BYTES = 2**26

_FIRST = Given("the first batch", "the condition of the first batch")

Batch = tuple[Any, PyTree]
"""Rows and their conditions."""
Prepare = Callable[[Given, Given, np.ndarray | None], Batch]
"""Turns rows, with their names and numbers in messages, into arrays for training."""


class Opened(NamedTuple):
    """The rows of a call of `fit`."""

    first: Batch
    """All rows and their conditions, or the first batch if they are not in memory."""
    held_out: Batch
    batch_size: int
    stream: "Stream | None"


class Stream:
    """The batches of the coming steps."""

    steps: int
    """The number of steps in a block, fewer if the batches are large."""

    def __init__(
        self, source: AbstractSource, prepare: Prepare, first: Batch, batch_size: int, key: KeyArray, num_steps: int
    ) -> None:
        """`first` is the batch of step 0, with which all other batches must agree in structure, shape and dtype."""
        self.source, self.prepare, self.first = source, prepare, first
        self.batch_size, self.key, self.num_steps = batch_size, key, num_steps
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(first))
        self.steps = min(_STEPS, max(1, _MOST_BYTES // max(1, size)))
        # One thread, because iterators are not safe for several.
        self.pool = concurrent.futures.ThreadPoolExecutor(1)
        self.asked: dict[int, concurrent.futures.Future[Batch | None]] = {}
        self.next, self.last = 0, first

    def start(self, step: int) -> None:
        """Starts at a step; the batches of earlier steps are skipped."""
        self.next = step
        if step and isinstance(self.source, Batches):
            # The first batch has been read already.
            self.source.skip(step - 1)
        elif isinstance(self.source, Batches):
            self.asked[0] = concurrent.futures.Future()
            self.asked[0].set_result(self.first)
            self.next = 1

    def available(self, step: int, count: int) -> int:
        """The number of steps among the `count` from `step` whose batches exist; waits for them.

        The steps of the previous block may be taken again; earlier batches are dropped.
        """
        self._ask(step + count + self.steps)
        self.asked = {k: batch for k, batch in self.asked.items() if k >= step - self.steps}
        return sum(self._batch(k) is not None for k in range(step, min(step + count, self.num_steps)))

    def block(self, step: int) -> Batch:
        """The batches of `steps` steps from `step`, one after the other; the last one is repeated after the end."""
        self._ask(step + self.steps)
        found = [self._batch(k) for k in range(step, step + self.steps)]
        batches = [self.last if batch is None else batch for batch in found]
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *batches)

    def close(self) -> None:
        self.pool.shutdown(cancel_futures=True)

    def _batch(self, step: int) -> Batch | None:
        batch = self.asked[step].result() if step in self.asked else None
        self.last = self.last if batch is None else batch
        return batch

    def _ask(self, until: int) -> None:
        while self.next < min(until, self.num_steps):
            count = min(self.steps, self.num_steps - self.next)
            takes = self.source.takes(self.batch_size, self.key, self.next, self.steps)[:count]
            self.asked |= {self.next + i: self.pool.submit(self._read, take) for i, take in enumerate(takes)}
            self.next += count

    def _read(self, take: Take) -> Batch | None:
        taken = take()
        if taken is None:
            return None
        batch = self.prepare(*taken)
        names = taken[1]
        n = num_rows(batch[0])
        if n != self.batch_size:
            raise ValueError(
                f"{names.rows} has {n} rows but the first batch has {self.batch_size}; all batches must have the same "
                "number: leave out a last batch that is smaller."
            )
        check_alike(names, batch, _FIRST, self.first)
        return batch


def open_data(
    model: Trainable,
    augment: Augment | None,
    given: Given,
    held_out: Given,
    batch_size: int | None,
    num_steps: int,
    key: KeyArray,
) -> Opened:
    """Prepares and checks the rows of `fit`; if they are not in memory, only the first batch is read."""
    check_held_out(given, held_out)
    prepare = functools.partial(prepare_rows, model, augment)
    source, stream = source_of(given), None
    if source is None:
        first = prepare(given, DATA)
        batch_size = batch_size or _BATCH_SIZE
    else:
        train_key, _ = split_key(key)
        first, batch_size = _first_batch(source, prepare, batch_size, train_key)
        stream = Stream(source, prepare, first, batch_size, train_key, num_steps)
    check_augment(model, augment, first[0], key)
    check_data_coupling(model, first[0], augment, in_memory=source is None)
    if held_out.rows is None:
        return Opened(first, (None, None), batch_size, stream)
    if is_iterable(held_out.rows):
        raise ValueError("validation is an iterator, but held-out rows are evaluated many times; pass an array.")
    validation = prepare(held_out, VALIDATION)
    check_alike(VALIDATION, validation, DATA, first)
    return Opened(first, validation, batch_size, stream)


def split_key(key: KeyArray) -> tuple[KeyArray, KeyArray]:
    """The keys of training and of held-out losses."""
    train_key, validation_key = jax.random.split(key)
    return train_key, validation_key


def _first_batch(source: AbstractSource, prepare: Prepare, batch_size: int | None, key: KeyArray) -> tuple[Batch, int]:
    """The batch of step 0 and its size, which an iterator sets."""
    taken = source.takes(batch_size or _BATCH_SIZE, key, 0, 1)[0]()
    if taken is None:
        raise ValueError("data is an iterator that has no batches; one that has been used cannot be used again.")
    batch = prepare(*taken)
    n = num_rows(batch[0])
    if source.size is None and batch_size not in (None, n):
        raise ValueError(f"batch_size={batch_size} but the first batch of data has {n} rows; leave batch_size out.")
    return batch, n
