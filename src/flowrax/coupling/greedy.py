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
    n = costs.shape[0]
    rows = jnp.arange(n, dtype=jnp.int32)
    # What is free must cost less than what is taken, or no row would find it and the loop would not end.
    most = float(jnp.finfo(costs.dtype).max)
    costs = jnp.nan_to_num(costs, nan=most, posinf=most)

    def some_are_free(state: tuple[Array, Array]) -> Array:
        return jnp.any(state[0] < 0)

    def take(state: tuple[Array, Array]) -> tuple[Array, Array]:
        order, left = state
        best = _first_least(left, 1)
        is_mutual = (_first_least(left, 0)[best] == rows) & (order < 0)
        is_taken = jnp.zeros(n, bool).at[jnp.where(is_mutual, best, n)].set(True, mode="drop")
        left = jnp.where(is_mutual[:, None] | is_taken[None], jnp.inf, left)
        return jnp.where(is_mutual, best, order), left

    return jax.lax.while_loop(some_are_free, take, (jnp.full_like(rows, -1), costs))[0]


def _first_least(costs: Array, axis: int) -> Array:
    # An argmin, several times faster on a CPU, where two plain reductions are vectorised and one of pairs is not.
    is_least = costs == jnp.min(costs, axis=axis, keepdims=True)
    rows = jnp.expand_dims(jnp.arange(costs.shape[0], dtype=jnp.int32), 1 - axis)
    return jnp.min(jnp.where(is_least, rows, costs.shape[0]), axis=axis)
