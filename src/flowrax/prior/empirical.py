"""The empirical distribution of a data set: a data point drawn at random."""

import equinox as eqx

from .._base import random
from .._base.arrays import as_floats, float_dtype
from .._base.checks import check_finite
from .._base.typing import Array, DType, Event, KeyArray, Numbers, Shape
from .base import AbstractPrior


class Empirical(AbstractPrior):
    """Data points drawn with replacement: the source of a bridge from one data set to another."""

    data: Array
    shape: Shape = eqx.field(static=True)
    dtype: DType = eqx.field(static=True)

    def __init__(self, data: Numbers, *, dtype: DType | None = None):
        """**Arguments:**

        - `data`: the data set, `(n, *event)` with `n >= 1`.
        - `dtype`: a floating dtype. Default: the dtype of the data.

        Raises `ValueError` for an empty data set, and for NaN or infinite values.
        """
        (rows,) = as_floats(data=data)
        self.data = rows if dtype is None else rows.astype(float_dtype(dtype))
        if self.data.ndim < 1 or not self.data.shape[0]:
            raise ValueError(f"data has shape {self.data.shape} but (n, *event) with n of at least 1 is expected.")
        check_finite("data", self.data)
        self.shape, self.dtype = self.data.shape[1:], self.data.dtype

    @property
    def rank(self) -> int:
        return 0

    def draw(self, key: KeyArray) -> Event:
        return self.data[random.randint(key, (), 0, self.data.shape[0])]

    def log_density(self, x: Event) -> Array:
        raise ValueError(
            "An Empirical prior has no density, so there is no log_prob from it; use a Gaussian prior for that."
        )
