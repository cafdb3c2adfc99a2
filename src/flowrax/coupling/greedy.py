"""The cheapest pair first, then the cheapest of the remaining pairs, and so on."""

from typing import ClassVar

import jax
import jax.numpy as jnp

from .._base.typing import Array, Batch, Condition, KeyArray
from .base import AbstractCoupling, Pairs, check_paired_rows
from .cost import Cost, SquaredDistance
from .pair_draw import AbstractDraw, PerData

# A thousand random rows took 59 rounds in 1 dimension, 31 in 2 and 20 in 64; each round reads all costs. Sorting all
# costs takes as long as some 64 rounds.
_ROUNDS, _SORT = 128, 64


class Greedy(AbstractCoupling):
    r"""Repeatedly pairs the cheapest unpaired noise and data: not optimal, but computed on the device.

    Each round takes at once all pairs in which each sample is the cheapest partner of the other, which gives the same
    pairs. Few rounds suffice for most batches. Equal rows may need as many rounds as there are rows, so whatever is
    left after 128 rounds, or after a round that takes one free row in 64 or fewer, is sorted: no batch takes longer
    than $O(n^2 \log n)$. Ties go to the first row of the data,
    then of the noise. The `(n, n)` costs of the whole batch are held in memory.
    """

    cost: Cost
    draw: AbstractDraw
    independent: ClassVar[bool] = False

    def __init__(self, *, cost: Cost | None = None, draw: AbstractDraw | None = None) -> None:
        """`cost` and `draw`: as in [`ExactOT`][]."""
        self.cost = SquaredDistance() if cost is None else cost
        self.draw = PerData() if draw is None else draw

    def __call__(self, key: KeyArray, x0: Batch, x1: Batch, condition: Condition = None) -> Pairs:
        check_paired_rows(x0, x1, condition)
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

    def is_worth_a_round(state: tuple[Array, Array, Array, Array]) -> Array:
        order, _, number, taken = state
        free = jnp.sum(order < 0, dtype=jnp.int32)
        return (free > 0) & (number < _ROUNDS) & (_SORT * taken >= free)

    def take(state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        order, left, number, _ = state
        best = _first_least(left, 1)
        is_mutual = (_first_least(left, 0)[best] == rows) & (order < 0)
        is_taken = jnp.zeros(n, bool).at[jnp.where(is_mutual, best, n)].set(True, mode="drop")
        left = jnp.where(is_mutual[:, None] | is_taken[None], jnp.inf, left)
        return jnp.where(is_mutual, best, order), left, number + 1, jnp.sum(is_mutual, dtype=jnp.int32)

    first = jnp.full_like(rows, -1), costs, jnp.zeros((), jnp.int32), jnp.full((), n, jnp.int32)
    order, left, _, _ = jax.lax.while_loop(is_worth_a_round, take, first)
    return jax.lax.cond(jnp.any(order < 0), _sorted, lambda order, left: order, order, left)


def _sorted(order: Array, left: Array) -> Array:
    """The rest of the assignment `order`, from the pairs in the order of their costs, `n` of them at a time.

    Each round takes at least one pair or moves on to the next `n`, so that there are at most `2 n` rounds.
    """
    n, rows = order.shape[0], jnp.arange(order.shape[0], dtype=jnp.int32)
    by_cost = jnp.argsort(left.reshape(-1)).astype(jnp.int32)

    def take(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        order, is_taken, part = state
        pairs = jax.lax.dynamic_slice(by_cost, (part * n,), (n,))
        row, column = pairs // n, pairs % n
        is_free = (order[row] < 0) & ~is_taken[column]
        earliest = [
            jnp.full_like(rows, n).at[jnp.where(is_free, of, n)].min(rows, mode="drop")[of] for of in (row, column)
        ]
        # The first free pair of its row and of its column.
        is_first = is_free & (earliest[0] == rows) & (earliest[1] == rows)
        order = order.at[jnp.where(is_first, row, n)].set(column, mode="drop")
        is_taken = is_taken.at[jnp.where(is_first, column, n)].set(True, mode="drop")
        return order, is_taken, part + jnp.all(is_first == is_free).astype(part.dtype)

    is_taken = jnp.zeros(n, bool).at[jnp.where(order < 0, n, order)].set(True, mode="drop")
    first = order, is_taken, jnp.zeros((), jnp.int32)
    return jax.lax.while_loop(lambda state: jnp.any(state[0] < 0), take, first)[0]


def _first_least(costs: Array, axis: int) -> Array:
    # An argmin by two plain reductions. A CPU vectorises these but not a reduction over (value, index) pairs, which is
    # several times slower.
    is_least = costs == jnp.min(costs, axis=axis, keepdims=True)
    rows = jnp.expand_dims(jnp.arange(costs.shape[0], dtype=jnp.int32), 1 - axis)
    return jnp.min(jnp.where(is_least, rows, costs.shape[0]), axis=axis)
