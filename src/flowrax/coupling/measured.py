r"""$(x_0, x_1)$ as given: pairs that were measured together."""

from typing import ClassVar

import jax.numpy as jnp

from .._base.typing import Batch, Condition, KeyArray
from .base import AbstractCoupling, Pairs, check_rows


class MeasuredPairs(AbstractCoupling):
    """Keeps the given pairs, in which noise and data depend on each other. `fit(..., x0=...)` records this coupling."""

    independent: ClassVar[bool] = False

    def __call__(self, key: KeyArray, x0: Batch, x1: Batch, condition: Condition = None) -> Pairs:
        check_rows(x0, x1, condition)
        rows = jnp.arange(x0.shape[0], dtype=jnp.int32)
        return Pairs(x0, x1, rows, rows)
