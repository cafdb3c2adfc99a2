r"""$x_1 = \Phi(x_0)$: noise meets where a given flow takes it."""

from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from .._checks import check_shape
from .._typing import Array, Batch, Condition, KeyArray
from .base import AbstractCoupling, Pairs

Flow = Callable[[Batch, KeyArray, Condition], Array]
"""`flow(x0, key, condition) -> x1`, of whole batches."""


class Reflow(AbstractCoupling):
    """Pairs noise with what a flow makes of it, for a second flow that is straighter. The data themselves are not used.

    `flow(x0, key, condition)` takes a batch of noise to data, `(n, *event)`; any map of that form will do, a closed one
    too. A trained model's is

        lambda x0, key, condition: frx.sample(teacher, key, x0.shape[0], x0=x0, condition=frx.Batched(condition)).x

    with `condition=None` for a model without. Nothing of the flow is trained. It is solved at every step.

    **Reference:** [@liu2023flow].
    """

    flow: Flow = eqx.field(static=True)
    independent: ClassVar[bool] = False

    def __call__(self, key: KeyArray, x0: Batch, x1: Batch, condition: Condition = None) -> Pairs:
        x1 = jax.lax.stop_gradient(self.flow(x0, key, condition))
        check_shape("flow(x0, key, condition)", x1.shape, x0.shape)
        rows = jnp.arange(x0.shape[0], dtype=jnp.int32)
        return Pairs(x0, x1.astype(x0.dtype), rows, rows)
