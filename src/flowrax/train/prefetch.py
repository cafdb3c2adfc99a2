"""Finds the pairings of the coming steps on threads of the host while the device trains."""

import concurrent.futures
import os
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._base.typing import Array, Batch, Condition, KeyArray, PyTree
from ..coupling import AbstractHostCoupling
from .step import Task
from .stream import Stream

_STEPS = 10

# Limits the size of the costs that are computed at once; two or three such blocks are in memory.
_MOST_BYTES = 2**26


class Prefetch:
    """The pairings by `coupling` for steps `0, 1, ..., num_steps - 1`, with the same draws as in training."""

    steps: int
    """The number of steps whose costs are computed, and which are trained, at once; fewer if the costs are large."""

    def __init__(
        self,
        coupling: AbstractHostCoupling,
        task: Task,
        data: Batch,
        key: KeyArray,
        num_steps: int,
        condition: Condition = None,
        stream: Stream | None = None,
    ) -> None:
        """If the rows are not in memory, they come from `stream`; `data` and `condition` are then its first batch."""
        self.coupling, self.task, self.num_steps = coupling, task, num_steps
        self.data, self.condition, self.key, self.stream = data, condition, key, stream
        costs = eqx.filter_eval_shape(_costs, coupling, task, data, condition, key, jnp.zeros(1, jnp.int32))
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(costs))
        self.steps = min(_STEPS, max(1, _MOST_BYTES // max(1, size)))
        if stream is not None:
            self.steps = stream.steps = min(self.steps, stream.steps)
        # The assignment releases the interpreter lock; one core remains free to feed the device.
        self.pool = concurrent.futures.ThreadPoolExecutor(max(1, (os.cpu_count() or 2) - 1))
        self.asked: dict[int, list[concurrent.futures.Future[np.ndarray]]] = {}

    def orders(self, step: int, count: int) -> Array:
        """The pairings of `count` steps from `step`, `(steps, batch_size)`; rows beyond `count` repeat the last one.

        The pairings of the next block are requested before this waits for its own.
        """
        steps = self.steps
        blocks = range(step // steps, (min(step + count + steps, self.num_steps) - 1) // steps + 1)
        self.asked = {block: self.asked.get(block) or self._ask(block) for block in blocks}
        found = [self.asked[k // steps][k % steps].result() for k in range(step, step + count)]
        return jnp.asarray(np.stack([*found, *[found[-1]] * (steps - count)]))

    def close(self) -> None:
        self.pool.shutdown(cancel_futures=True)

    def _ask(self, block: int) -> list[concurrent.futures.Future[np.ndarray]]:
        steps = block * self.steps + jnp.arange(self.steps, dtype=jnp.int32)
        data, condition, first = self.data, self.condition, None
        if self.stream is not None:
            first = steps[0]
            data, condition = self.stream.block(block * self.steps)
        costs = _costs(self.coupling, self.task, data, condition, self.key, steps, first)
        host = self.pool.submit(jax.device_get, costs)

        def order(index: int) -> np.ndarray:
            return self.coupling.order(jax.tree.map(lambda leaf: leaf[index], host.result()))

        return [self.pool.submit(order, index) for index in range(self.steps)]


@eqx.filter_jit
def _costs(
    coupling: AbstractHostCoupling,
    task: Task,
    data: Batch,
    condition: Condition,
    key: KeyArray,
    steps: Array,
    first: Array | None = None,
) -> PyTree[Array]:
    def one(step: Array) -> Any:
        rows, own = task.batch(data, key, step, first)
        return coupling.costs(*task.ends(data[rows], own), jax.tree.map(lambda leaf: leaf[rows], condition))

    return jax.lax.map(one, steps)
