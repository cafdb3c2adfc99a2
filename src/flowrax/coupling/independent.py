r"""$(x_0, x_1) \sim p_0 \otimes p_1$."""

from typing import ClassVar

from .._typing import Batch, KeyArray
from .base import AbstractCoupling


class Independent(AbstractCoupling):
    """Leaves the rows as they were drawn."""

    independent: ClassVar[bool] = True

    def __call__(self, key: KeyArray, x0: Batch, x1: Batch) -> Batch:
        return x0
