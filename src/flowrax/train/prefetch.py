"""Pairings of the steps ahead, found on the host's threads while the device trains."""

import concurrent.futures
import os
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._typing import Array, Batch, KeyArray, PyTree
from ..coupling import AbstractHostCoupling
from .step import Task

STEPS = 10
"""Steps whose costs are computed at once, and that are trained at once."""


class Prefetch:
    """The orders of `coupling` for steps `0, 1, ..., num_steps - 1`; step `k` draws as in training."""

    def __init__(self, coupling: AbstractHostCoupling, task: Task, data: Batch, key: KeyArray, num_steps: int) -> None:
        self.coupling, self.task, self.data, self.key, self.num_steps = coupling, task, data, key, num_steps
        # The assignment holds no interpreter lock; one core is left to feed the device.
        self.pool = concurrent.futures.ThreadPoolExecutor(max(1, (os.cpu_count() or 2) - 1))
        self.asked: dict[int, list[concurrent.futures.Future[np.ndarray]]] = {}

    def orders(self, step: int, count: int) -> Array:
        """`(STEPS, batch_size)`, of `count` steps from `step`; the next ones are asked for before these are awaited."""
        blocks = range(step // STEPS, (min(step + count + STEPS, self.num_steps) - 1) // STEPS + 1)
        self.asked = {block: self.asked.get(block) or self._ask(block) for block in blocks}
        found = [self.asked[k // STEPS][k % STEPS].result() for k in range(step, step + count)]
        return jnp.asarray(np.stack([*found, *[found[-1]] * (STEPS - count)]))

    def close(self) -> None:
        self.pool.shutdown(cancel_futures=True)

    def _ask(self, block: int) -> list[concurrent.futures.Future[np.ndarray]]:
        costs = _costs(self.coupling, self.task, self.data, self.key, jnp.asarray(block * STEPS, jnp.int32))
        host = self.pool.submit(jax.device_get, costs)

        def order(index: int) -> np.ndarray:
            return self.coupling.order(jax.tree.map(lambda leaf: leaf[index], host.result()))

        return [self.pool.submit(order, index) for index in range(STEPS)]


@eqx.filter_jit
def _costs(coupling: AbstractHostCoupling, task: Task, data: Batch, key: KeyArray, first: Array) -> PyTree[Array]:
    def one(step: Array) -> Any:
        rows, own = task.batch(data, key, step)
        return coupling.costs(*task.ends(data[rows], own))

    return jax.lax.map(one, first + jnp.arange(STEPS, dtype=jnp.int32))
