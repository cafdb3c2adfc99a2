r"""$(x_0, x_1)$ as they came: pairs that were measured together."""

from typing import ClassVar

import jax.numpy as jnp

from .._typing import Batch, Condition, KeyArray
from .base import AbstractCoupling, Pairs


class Given(AbstractCoupling):
    """Leaves the rows as they are, but they depend on each other: what `fit(..., x0=...)` records."""

    independent: ClassVar[bool] = False

    def __call__(self, key: KeyArray, x0: Batch, x1: Batch, condition: Condition = None) -> Pairs:
        rows = jnp.arange(x0.shape[0], dtype=jnp.int32)
        return Pairs(x0, x1, rows, rows)
