r"""$(x_0, x_1) \sim p_0 \otimes p_1$."""

from typing import ClassVar

import jax
import jax.numpy as jnp

from .._base.typing import Condition, KeyArray, Rows
from .base import AbstractCoupling, Pairs, check_rows


class Independent(AbstractCoupling):
    """Pairs noise and data in the order in which they were drawn."""

    independent: ClassVar[bool] = True

    def __call__(self, key: KeyArray, x0: Rows, x1: Rows, condition: Condition = None) -> Pairs:
        check_rows(x0, x1, condition)
        rows = jnp.arange(jax.tree.leaves(x0)[0].shape[0], dtype=jnp.int32)
        return Pairs(x0, x1, rows, rows)
