r"""Couplings that keep the rows in order: $(x_0, x_1) \sim p_0 \otimes p_1$, measured pairs, and $x_1 = \Phi(x_0)$."""

from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from .._base.checks import check_shape
from .._base.typing import Array, Batch, Condition, KeyArray, Rows
from .base import AbstractCoupling, Pairs, check_paired_rows

Flow = Callable[[Batch, KeyArray, Condition], Array]
"""`flow(x0, key, condition) -> x1` on whole batches."""


def in_order(x0: Rows, x1: Rows, condition: Condition = None) -> Pairs:
    """Pairs each row of `x0` with the same row of `x1`; raises `ValueError` for unequal numbers of rows."""
    check_paired_rows(x0, x1, condition)
    rows = jnp.arange(jax.tree.leaves(x0)[0].shape[0], dtype=jnp.int32)
    return Pairs(x0, x1, rows, rows)


class Independent(AbstractCoupling):
    """Pairs noise and data in the order in which they were drawn."""

    independent: ClassVar[bool] = True

    def __call__(self, key: KeyArray, x0: Rows, x1: Rows, condition: Condition = None) -> Pairs:
        return in_order(x0, x1, condition)


class MeasuredPairs(AbstractCoupling):
    """Keeps the given pairs, in which noise and data depend on each other. `fit(..., x0=...)` records this coupling."""

    independent: ClassVar[bool] = False

    def __call__(self, key: KeyArray, x0: Batch, x1: Batch, condition: Condition = None) -> Pairs:
        return in_order(x0, x1, condition)


class Reflow(AbstractCoupling):
    """Pairs noise with its image under a flow, to train a second, straighter flow. The data themselves are not used.

    `flow(x0, key, condition)` maps a batch of noise to a batch of data, both `(n, *event)`; any map of this form will
    do, including one in closed form. For a trained model `teacher` it is

        lambda x0, key, condition: frx.sample(teacher, key, x0.shape[0], x0=x0, condition=frx.Batched(condition)).x

    with `condition=None` for an unconditional teacher. The flow receives no gradients and is solved anew at every
    training step. A flow whose output has another shape than `x0` raises a `ValueError`.

    **Reference:** [@liu2023flow].
    """

    flow: Flow = eqx.field(static=True)
    independent: ClassVar[bool] = False

    def __call__(self, key: KeyArray, x0: Batch, x1: Batch, condition: Condition = None) -> Pairs:
        x1 = jax.lax.stop_gradient(self.flow(x0, key, condition))
        check_shape("flow(x0, key, condition)", x1.shape, x0.shape)
        return in_order(x0, x1.astype(x0.dtype))
