r"""Point sets rotated onto their partners: $x_0 \mapsto R\, x_0$ with the rotation of [`kabsch`][], pair by pair."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._base.typing import Array, Batch, Condition, Int, KeyArray
from .base import AbstractCoupling, AbstractHostCoupling, Pairs
from .cost import Cost, Extract, KabschDistance, SquaredDistance, of_rows
from .exact_ot import ExactOT
from .in_order import in_order
from .pair_draw import AbstractDraw
from .rotation import kabsch


class Kabsch(AbstractCoupling):
    r"""Rotates each sample onto its partner, without reflections; the order of the pairs stays the same.

    Use it with a rotation-invariant distribution, such as an isotropic Gaussian, and a rotation-equivariant network.
    Otherwise the noise in training no longer has the distribution from which sampling starts.

    **Reference:** [@klein2023equivariant].
    """

    noise_to_data: bool = eqx.field(static=True)
    translate: bool = eqx.field(static=True)
    mask: Extract | None
    independent: ClassVar[bool] = False

    def __init__(self, *, noise_to_data: bool = True, translate: bool = False, mask: Extract | None = None) -> None:
        """**Arguments:**

        - `noise_to_data`: whether to rotate the noise onto the data; otherwise the data are rotated onto the noise and
            take any orientation.
        - `translate`: whether to rotate about the centre of the points and then move it to the centre of the partner.
            Otherwise the points are rotated about the origin, which is the same for centred points.
        - `mask`: selects the mask of the points from the condition, `(n, p)`. Masked points affect neither the rotation
            nor the centres, and are zero in the pairs. Default: all points count.
        """
        self.noise_to_data, self.translate, self.mask = noise_to_data, translate, mask

    def __call__(self, key: KeyArray, x0: Batch, x1: Batch, condition: Condition = None) -> Pairs:
        return self.turn(in_order(x0, x1, condition), condition)

    def turn(self, pairs: Pairs, condition: Condition = None) -> Pairs:
        """The same pairs, rotated; `condition` is the condition of the batch of data from which they were taken."""
        mask = None if self.mask is None else self.mask(pairs.follow(condition))
        x, y = (pairs.x0, pairs.x1) if self.noise_to_data else (pairs.x1, pairs.x0)
        turned, other = jax.vmap(self._onto)(x, y) if mask is None else jax.vmap(self._onto)(x, y, mask)
        x0, x1 = (turned, other) if self.noise_to_data else (other, turned)
        return eqx.tree_at(lambda p: (p.x0, p.x1), pairs, (x0, x1))

    def _onto(self, x: Array, y: Array, mask: Array | None = None) -> tuple[Array, Array]:
        inside = jnp.ones(x.shape[:1], bool) if mask is None else mask.astype(bool)
        rotation = jax.lax.stop_gradient(kabsch(x, y, inside))
        # Select, do not multiply: 0 x NaN is NaN, and padding may hold NaN.
        x, y = (jnp.where(inside[:, None], z, 0) for z in (x, y))
        if not self.translate:
            return x @ rotation.T, y
        number = jnp.maximum(jnp.sum(inside), 1).astype(x.dtype)
        x_centre, y_centre = (jnp.sum(z, axis=0, keepdims=True) / number for z in (x, y))
        return jnp.where(inside[:, None], (x - x_centre) @ rotation.T + y_centre, 0), y


class EquivariantOT(AbstractHostCoupling):
    r"""Minibatch optimal transport of shapes: exact assignment by the distance that remains after alignment, then
    rotation of each sample onto its partner.

    All costs come from one matrix product and elementwise rotations of the columns of 3 by 3 matrices, with no loop
    over pairs. The distribution and the network must meet the conditions stated in [`Kabsch`][].

    **References:** [@klein2023equivariant], [@song2023equivariant].
    """

    transport: ExactOT
    alignment: Kabsch
    independent: ClassVar[bool] = False

    def __init__(
        self,
        *,
        block_size: int = 256,
        cost: Cost | None = None,
        noise_to_data: bool = True,
        translate: bool = False,
        mask: Extract | None = None,
        draw: AbstractDraw | None = None,
    ) -> None:
        """**Arguments:**

        - `block_size`, `draw`: as in [`ExactOT`][].
        - `cost`: such as `KabschDistance(squared=False)` or `ConditionalCost(KabschDistance())`. Default:
            `KabschDistance(mask=mask)`.
        - `noise_to_data`, `translate`, `mask`: as in [`Kabsch`][]. With a [`KabschDistance`][] or
            [`SquaredDistance`][] as `cost`, the alignment uses the mask of the cost.

        **Raises:** `ValueError` if `mask` differs from the mask of the cost.
        """
        cost = KabschDistance(mask=mask) if cost is None else cost
        mask = _one_mask(cost, mask)
        self.transport = ExactOT(block_size=block_size, cost=cost, draw=draw)
        self.alignment = Kabsch(noise_to_data=noise_to_data, translate=translate, mask=mask)

    def costs(self, x0: Batch, x1: Batch, condition: Condition = None) -> tuple[Array, ...]:
        return self.transport.costs(x0, x1, condition)

    def order(self, costs: tuple[np.ndarray, ...]) -> np.ndarray:
        return self.transport.order(costs)

    def pairs(self, key: KeyArray, x0: Batch, x1: Batch, condition: Condition, order: Int[Array, " n"]) -> Pairs:
        return self.alignment.turn(self.transport.pairs(key, x0, x1, condition, order), condition)


def _one_mask(cost: Cost, mask: Extract | None) -> Extract | None:
    alone = of_rows(cost)
    if not isinstance(alone, KabschDistance | SquaredDistance):
        return mask
    if mask is not None and mask is not alone.mask:
        raise ValueError("mask= differs from the mask of the cost; give the mask to the cost alone.")
    return alone.mask
