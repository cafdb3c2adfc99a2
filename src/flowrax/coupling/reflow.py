r"""$x_1 = \Phi(x_0)$: each noise is paired with its image under a given flow."""

from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from .._base.checks import check_shape
from .._base.typing import Array, Batch, Condition, KeyArray
from .base import AbstractCoupling, Pairs

Flow = Callable[[Batch, KeyArray, Condition], Array]
"""`flow(x0, key, condition) -> x1` on whole batches."""


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
        rows = jnp.arange(x0.shape[0], dtype=jnp.int32)
        return Pairs(x0, x1.astype(x0.dtype), rows, rows)
