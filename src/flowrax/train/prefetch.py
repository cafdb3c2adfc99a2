"""Pairings of the steps ahead, found on the host's threads while the device trains."""

import concurrent.futures
import os
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._typing import Array, Batch, Condition, KeyArray, PyTree
from ..coupling import AbstractHostCoupling
from .step import Task

_STEPS = 10

# Of the costs that are computed at once; those of two or three times as many steps are held.
_MOST_BYTES = 2**26


class Prefetch:
    """The orders of `coupling` for steps `0, 1, ..., num_steps - 1`; step `k` draws as in training."""

    steps: int
    """Steps whose costs are computed at once, and that are trained at once: fewer where their costs are large."""

    def __init__(
        self,
        coupling: AbstractHostCoupling,
        task: Task,
        data: Batch,
        key: KeyArray,
        num_steps: int,
        condition: Condition = None,
    ) -> None:
        self.coupling, self.task, self.num_steps = coupling, task, num_steps
        self.data, self.condition, self.key = data, condition, key
        costs = eqx.filter_eval_shape(_costs, coupling, task, data, condition, key, jnp.zeros(1, jnp.int32))
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(costs))
        self.steps = min(_STEPS, max(1, _MOST_BYTES // max(1, size)))
        # The assignment holds no interpreter lock; one core is left to feed the device.
        self.pool = concurrent.futures.ThreadPoolExecutor(max(1, (os.cpu_count() or 2) - 1))
        self.asked: dict[int, list[concurrent.futures.Future[np.ndarray]]] = {}

    def orders(self, step: int, count: int) -> Array:
        """`(steps, batch_size)`, of `count` steps from `step`; the next ones are asked for before these are awaited."""
        steps = self.steps
        blocks = range(step // steps, (min(step + count + steps, self.num_steps) - 1) // steps + 1)
        self.asked = {block: self.asked.get(block) or self._ask(block) for block in blocks}
        found = [self.asked[k // steps][k % steps].result() for k in range(step, step + count)]
        return jnp.asarray(np.stack([*found, *[found[-1]] * (steps - count)]))

    def close(self) -> None:
        self.pool.shutdown(cancel_futures=True)

    def _ask(self, block: int) -> list[concurrent.futures.Future[np.ndarray]]:
        steps = block * self.steps + jnp.arange(self.steps, dtype=jnp.int32)
        costs = _costs(self.coupling, self.task, self.data, self.condition, self.key, steps)
        host = self.pool.submit(jax.device_get, costs)

        def order(index: int) -> np.ndarray:
            return self.coupling.order(jax.tree.map(lambda leaf: leaf[index], host.result()))

        return [self.pool.submit(order, index) for index in range(self.steps)]


@eqx.filter_jit
def _costs(
    coupling: AbstractHostCoupling, task: Task, data: Batch, condition: Condition, key: KeyArray, steps: Array
) -> PyTree[Array]:
    def one(step: Array) -> Any:
        rows, own = task.batch(data, key, step)
        return coupling.costs(*task.ends(data[rows], own), jax.tree.map(lambda leaf: leaf[rows], condition))

    return jax.lax.map(one, steps)
