r"""The cost $c_{ij}$ of pairing data $i$ with noise $j$: distances, with masks and conditions.

A mask belongs to the data: the cost $c_{ij}$ applies the mask of data $i$ to noise $j$ as well.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp

from .._base.checks import check_fields, check_shape
from .._base.typing import Array, Batch, Condition
from .rotation import kabsch_cost, without_gaps

Cost = Callable[[Batch, Batch, Condition], Array]
"""`cost(x1, x0, condition)`: the `(n, n)` costs of all pairs of data (rows) and noise (columns)."""
Extract = Callable[[Condition], Array]
"""Selects an array of a condition, such as `lambda c: c["mask"]`; the leaves and the result are `(n, ...)`."""


class SquaredDistance(eqx.Module):
    r"""$\sum_p m^i_p \lVert x_1^{ip} - x_0^{jp} \rVert^2$.

    `mask` selects the mask from the condition, `(n, *points)` for events `(*points, ...)`. Default: all points count.
    """

    mask: Extract | None = None

    def __check_init__(self) -> None:
        check_fields(self)

    def __call__(self, x1: Batch, x0: Batch, condition: Condition = None) -> Array:
        if self.mask is None:
            x1, x0 = (x.reshape(x.shape[0], -1) for x in centred(x1, x0))
            return jnp.sum(x1**2, axis=1)[:, None] + jnp.sum(x0**2, axis=1)[None] - 2 * x1 @ x0.T
        mask = self.mask(condition)
        check_shape("mask", mask.shape, x1.shape[: mask.ndim])
        inside = jnp.broadcast_to(mask.reshape(mask.shape + (1,) * (x1.ndim - mask.ndim)).astype(bool), x1.shape)
        inside, x1, x0 = (x.reshape(x.shape[0], -1) for x in (inside, x1, x0))
        x0, forbid = without_gaps(inside, x0)
        # Select, do not multiply: 0 x NaN is NaN, and padding may hold NaN.
        total = jnp.sum(jnp.where(inside, x1, 0), axis=0, keepdims=True)
        centre = total / jnp.maximum(jnp.sum(inside, axis=0, keepdims=True), 1).astype(x1.dtype)
        weight, x1, x0 = inside.astype(x1.dtype), jnp.where(inside, x1 - centre, 0), x0 - centre
        return forbid(jnp.sum(x1**2, axis=1)[:, None] + weight @ (x0**2).T - 2 * x1 @ x0.T)


class KabschDistance(eqx.Module):
    """The squared distance between two sets of points in space after centring and optimal rotation, see
    [`kabsch_cost`][].

    With `squared=False` it is the distance itself, which a different assignment may minimise. `mask` selects the mask
    of the points from the condition, `(n, p)`. Default: all points count.
    """

    squared: bool = True
    mask: Extract | None = None

    def __check_init__(self) -> None:
        check_fields(self)

    def __call__(self, x1: Batch, x0: Batch, condition: Condition = None) -> Array:
        cost = kabsch_cost(x1, x0, None if self.mask is None else self.mask(condition).astype(bool))
        return cost if self.squared else jnp.sqrt(cost)


class ConditionalCost(eqx.Module):
    r"""A cost that keeps noise independent of the condition: $c_{ij} + w \lVert y_i - y_j \rVert^2$, with $y_j$ the
    condition of row $j$ of the batch before pairing.

    Optimal transport of a whole batch makes the noise depend on the condition: the data of a class are paired with the
    noise near that class, whereas sampling starts from all noise. With an infinite weight, the default, data are paired
    only with noise whose row has an equal condition, and the distribution of the noise given the condition is exactly
    the prior. This suits labels. Continuous conditions are never equal, and a large weight preserves the conditional
    distribution approximately.

    **References:** [@cheng2025curse], [@chemseddine2024conditional].
    """

    cost: Cost
    by: Extract
    weight: float

    def __init__(self, cost: Cost | None = None, *, by: Extract | None = None, weight: float = float("inf")) -> None:
        """**Arguments:**

        - `cost`: the cost between data and noise. Default: `SquaredDistance()`.
        - `by`: selects the array of the condition to compare, `(n, ...)`. Default: the whole condition, which must then
            be one array.
        - `weight`: the weight $w$ of the squared distance between two conditions, in units of `cost`.

        **Raises:** `ValueError` if `weight` is not positive.
        """
        if not weight > 0:
            raise ValueError(f"weight={weight} does not keep conditions together; use a positive one, or infinity.")
        self.cost, self.weight = SquaredDistance() if cost is None else cost, float(weight)
        self.by = _all if by is None else by

    def __check_init__(self) -> None:
        check_fields(self)

    def __call__(self, x1: Batch, x0: Batch, condition: Condition = None) -> Array:
        cost, labels = self.cost(x1, x0, condition), self.by(condition)
        labels = labels.reshape(labels.shape[0], -1)
        if self.weight == float("inf"):
            same = jnp.all(labels[:, None] == labels[None], axis=2)
            return jnp.where(same, cost, jnp.inf)
        return cost + self.weight * SquaredDistance()(*[labels.astype(cost.dtype)] * 2)


def centre_of(x: Batch) -> Batch:
    """The mean of the finite numbers along the first axis, which is kept, so that a row of NaN does not affect it."""
    is_finite = jnp.isfinite(x)
    number = jnp.maximum(jnp.sum(is_finite, axis=0, keepdims=True), 1).astype(x.dtype)
    return jnp.sum(jnp.where(is_finite, x, 0), axis=0, keepdims=True) / number


def centred(x1: Batch, x0: Batch) -> tuple[Batch, Batch]:
    """Subtracts the centre of the data from both: far from the origin their squares would cancel and lose digits."""
    centre = centre_of(x1)
    return x1 - centre, x0 - centre


def of_rows(cost: Cost) -> Cost:
    """The cost between data and noise alone, without the term that any [`ConditionalCost`][] adds."""
    while isinstance(cost, ConditionalCost):
        cost = cost.cost
    return cost


def in_units(cost: Cost, x1: Batch, x0: Batch, condition: Condition) -> Array:
    """The costs divided by the largest cost between data and noise alone; distances of conditions differ in unit."""
    alone = of_rows(cost)(x1, x0, condition)
    # Exclude the infinite costs of forbidden pairs from the maximum.
    largest = jnp.max(jnp.where(jnp.isfinite(alone), alone, -jnp.inf))
    return cost(x1, x0, condition) / jnp.where(largest > 0, largest, 1)


def _all(condition: Condition) -> Array:
    leaves = jax.tree.leaves(condition)
    if len(leaves) != 1:
        raise ValueError(
            f"ConditionalCost compares one array, but the condition has {len(leaves)}; pass condition= to fit, and by= "
            "a function that selects one array of the condition."
        )
    return leaves[0]
