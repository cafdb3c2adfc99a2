r"""What it costs to pair data $i$ with noise $j$: distances, with masks and conditions.

A mask belongs to the data. A noise that is tried with some data is looked at through the mask of those data.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp

from .._checks import check_shape
from .._typing import Array, Batch, Condition
from .alignment import kabsch_cost

Cost = Callable[[Batch, Batch, Condition], Array]
"""`cost(x1, x0, condition)`: the `(n, n)` costs of all pairs, of data (rows) and noise (columns)."""
Of = Callable[[Condition], Array]
"""What to take of a condition, such as `lambda c: c["mask"]`; its leaves and the answer are `(n, ...)`."""


class SquaredDistance(eqx.Module):
    r"""$\sum_p m^i_p \lVert x_1^{ip} - x_0^{jp} \rVert^2$.

    `mask` finds the mask in the condition, `(n, *points)` for events `(*points, ...)`; all points count without.
    """

    mask: Of | None = None

    def __call__(self, x1: Batch, x0: Batch, condition: Condition = None) -> Array:
        n = x1.shape[0]
        # About a common centre, far from which the squares would lose digits.
        centre = jnp.mean(x1, axis=0, keepdims=True)
        x1, x0 = x1 - centre, x0 - centre
        if self.mask is None:
            x1, x0 = x1.reshape(n, -1), x0.reshape(x0.shape[0], -1)
            return jnp.sum(x1**2, axis=1)[:, None] + jnp.sum(x0**2, axis=1)[None] - 2 * x1 @ x0.T
        mask = self.mask(condition)
        check_shape("mask", mask.shape, x1.shape[: mask.ndim])
        weight = mask.astype(x1.dtype).reshape(mask.shape + (1,) * (x1.ndim - mask.ndim))
        weight, x1, x0 = (z.reshape(z.shape[0], -1) for z in (jnp.broadcast_to(weight, x1.shape), x1, x0))
        return jnp.sum(weight * x1**2, axis=1)[:, None] + weight @ (x0**2).T - 2 * (weight * x1) @ x0.T


class KabschDistance(eqx.Module):
    """The squared distance of two sets of points in space once centred and rotated onto one another, see
    [`kabsch_cost`][]; its root with `squared=False`, which another assignment may minimise.

    `mask` finds the mask of the points in the condition, `(n, p)`; all points count without.
    """

    squared: bool = True
    mask: Of | None = None

    def __call__(self, x1: Batch, x0: Batch, condition: Condition = None) -> Array:
        cost = kabsch_cost(x1, x0, None if self.mask is None else self.mask(condition).astype(bool))
        return cost if self.squared else jnp.sqrt(cost)


class Conditional(eqx.Module):
    r"""A cost that leaves conditions alone: $c_{ij} + w \lVert y_i - y_j \rVert^2$, with $y_j$ the condition that noise
    $j$ came with.

    Transport of a whole batch makes the noise depend on the condition: what a class is given are the draws that lie
    near it, while sampling starts from all of them. With an infinite weight, the default, a row only meets the noise
    that came with an equal condition, and the noise given the condition keeps its law exactly. That suits labels; for
    continuous conditions, which are never equal, a large weight keeps it nearly.

    **References:** [@cheng2025curse], [@chemseddine2024conditional].
    """

    cost: Cost
    by: Of
    weight: float

    def __init__(self, cost: Cost | None = None, *, by: Of | None = None, weight: float = float("inf")) -> None:
        """**Arguments:**

        - `cost`: that of the rows; [`SquaredDistance`][] without.
        - `by`: what of the condition counts, `(n, ...)`; all of it, which must then be one array, without.
        - `weight`: of the squared distance of two conditions, in units of `cost`.
        """
        if not weight > 0:
            raise ValueError(f"weight={weight} does not keep conditions together; use a positive one, or infinity.")
        self.cost, self.weight = SquaredDistance() if cost is None else cost, float(weight)
        self.by = _all if by is None else by

    def __call__(self, x1: Batch, x0: Batch, condition: Condition = None) -> Array:
        cost, labels = self.cost(x1, x0, condition), self.by(condition)
        labels = labels.reshape(labels.shape[0], -1)
        if self.weight == float("inf"):
            same = jnp.all(labels[:, None] == labels[None], axis=2)
            return jnp.where(same, cost, jnp.inf)
        return cost + self.weight * SquaredDistance()(*[labels.astype(cost.dtype)] * 2)


def of_rows(cost: Cost) -> Cost:
    """The cost of the rows alone, without what any [`Conditional`][] adds."""
    while isinstance(cost, Conditional):
        cost = cost.cost
    return cost


def in_units(cost: Cost, x1: Batch, x0: Batch, condition: Condition) -> Array:
    """The costs over the largest of the rows alone: the distance of conditions has a unit of its own."""
    alone = of_rows(cost)(x1, x0, condition)
    # Forbidden pairs cost infinity, which is no unit.
    largest = jnp.max(jnp.where(jnp.isfinite(alone), alone, -jnp.inf))
    return cost(x1, x0, condition) / jnp.where(largest > 0, largest, 1)


def _all(condition: Condition) -> Array:
    leaves = jax.tree.leaves(condition)
    if len(leaves) != 1:
        raise ValueError(
            f"Conditional is given a condition of {len(leaves)} arrays and cannot tell which one counts; pass "
            "condition= to fit, and by= with a function that takes one array of it."
        )
    return leaves[0]
