"""The cheapest pair first, then the cheapest of what is left, and so on."""

from typing import ClassVar

import jax
import jax.numpy as jnp

from .._typing import Array, Batch, Condition, KeyArray
from .base import AbstractCoupling, Pairs
from .cost import Cost, SquaredDistance
from .draw import AbstractDraw, PerData


class Greedy(AbstractCoupling):
    """Takes the cheapest pair of rows that are both free until none is left: not optimal, but found on the device.

    Each round takes all the pairs that are each other's cheapest at once, which gives the same pairs; ties go to the
    first row of the data, then of the noise. Costs of a whole batch are held, `(n, n)`.
    """

    cost: Cost
    draw: AbstractDraw
    independent: ClassVar[bool] = False

    def __init__(self, *, cost: Cost | None = None, draw: AbstractDraw | None = None) -> None:
        """`cost` and `draw`: as of [`ExactOT`][]."""
        self.cost = SquaredDistance() if cost is None else cost
        self.draw = PerData() if draw is None else draw

    def __call__(self, key: KeyArray, x0: Batch, x1: Batch, condition: Condition = None) -> Pairs:
        costs = jax.lax.stop_gradient(self.cost(x1, x0, condition))
        noise, data = self.draw.of_order(key, _cheapest_first(costs))
        return Pairs(x0[noise], x1[data], noise, data)


def _cheapest_first(costs: Array) -> Array:
    """`(n,)`: the column of each row."""
    rows = jnp.arange(costs.shape[0], dtype=jnp.int32)
    # What is free must cost less than what is taken, or no row would find it and the loop would not end.
    most = float(jnp.finfo(costs.dtype).max)
    costs = jnp.nan_to_num(costs, nan=most, posinf=most)

    def some_are_free(order: Array) -> Array:
        return jnp.any(order < 0)

    def take(order: Array) -> Array:
        is_taken = jnp.any(order[:, None] == rows[None], axis=0)
        free = (order < 0)[:, None] & ~is_taken[None]
        left = jnp.where(free, costs, jnp.inf)
        best = jnp.argmin(left, axis=1).astype(jnp.int32)
        back = jnp.argmin(left, axis=0).astype(jnp.int32)[best]
        is_mutual = (back == rows) & (order < 0)
        return jnp.where(is_mutual, best, order)

    return jax.lax.while_loop(some_are_free, take, jnp.full_like(rows, -1))
