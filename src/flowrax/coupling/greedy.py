"""The cheapest pair first, then the cheapest of the remaining pairs, and so on."""

from typing import ClassVar

import jax
import jax.numpy as jnp

from .._base.typing import Array, Batch, Condition, KeyArray
from .base import AbstractCoupling, Pairs
from .cost import Cost, SquaredDistance
from .pair_draw import AbstractDraw, PerData


class Greedy(AbstractCoupling):
    """Repeatedly pairs the cheapest unpaired noise and data: not optimal, but computed on the device.

    Each round takes at once all pairs in which each sample is the cheapest partner of the other, which gives the same
    pairs. Ties go to the first row of the data, then of the noise. The `(n, n)` costs of the whole batch are held in
    memory.
    """

    cost: Cost
    draw: AbstractDraw
    independent: ClassVar[bool] = False

    def __init__(self, *, cost: Cost | None = None, draw: AbstractDraw | None = None) -> None:
        """`cost` and `draw`: as in [`ExactOT`][]."""
        self.cost = SquaredDistance() if cost is None else cost
        self.draw = PerData() if draw is None else draw

    def __call__(self, key: KeyArray, x0: Batch, x1: Batch, condition: Condition = None) -> Pairs:
        costs = jax.lax.stop_gradient(self.cost(x1, x0, condition))
        noise, data = self.draw.of_order(key, _cheapest_first(costs))
        return Pairs(x0[noise], x1[data], noise, data)


def _cheapest_first(costs: Array) -> Array:
    """`(n,)`: the column assigned to each row."""
    n = costs.shape[0]
    rows = jnp.arange(n, dtype=jnp.int32)
    # Free pairs must cost less than the infinity that marks taken ones; otherwise the loop would never end.
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
    # An argmin by two plain reductions. A CPU vectorises these but not a reduction over (value, index) pairs, which is
    # several times slower.
    is_least = costs == jnp.min(costs, axis=axis, keepdims=True)
    rows = jnp.expand_dims(jnp.arange(costs.shape[0], dtype=jnp.int32), 1 - axis)
    return jnp.min(jnp.where(is_least, rows, costs.shape[0]), axis=axis)
