r"""$x_0 \sim \mathcal{N}(\mu, \operatorname{diag}(s^2))$, by default the standard normal distribution."""

import math

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from .._base.arrays import as_numbers, float_dtype
from .._base.checks import check_number, check_shape, check_std, is_traced
from .._base.typing import Array, DType, Event, Numbers, Scalar, Shape
from .base import AbstractGaussianPrior


class Gaussian(AbstractGaussianPrior):
    """A Gaussian with independent elements."""

    mean: Array
    std: Array
    shape: Shape = eqx.field(static=True)
    dtype: DType = eqx.field(static=True)
    is_standard: bool = eqx.field(static=True)

    def __init__(
        self,
        shape: Shape,
        *,
        mean: Numbers = 0.0,
        std: Numbers = 1.0,
        dtype: DType | None = None,
    ):
        """**Arguments:**

        - `shape`: the shape of one event.
        - `mean`: the mean, a scalar or an array of that shape.
        - `std`: the standard deviation, a scalar or an array of that shape. Elements with zero standard deviation
            (padding) are always zero and do not contribute to the density; the mean must be zero there.
        - `dtype`: a floating dtype. Default: JAX's default floating dtype.

        Raises `ValueError` for shapes that disagree, for a negative standard deviation, and for a nonzero mean where
        an array `std` is zero.
        """
        self.shape = tuple(shape)
        self.dtype = float_dtype(dtype)
        numbers = isinstance(mean, int | float) and isinstance(std, int | float)
        # Comparing NumPy floats, which are instances of float, gives a NumPy bool, so convert it.
        self.is_standard = numbers and bool(mean == 0 and std == 1)
        mean, self.std = as_numbers("mean", mean, self.dtype), as_numbers("std", std, self.dtype)
        for name, value in (("mean", mean), ("std", self.std)):
            if value.ndim:
                check_shape(name, value.shape, self.shape)
        self.mean = jnp.broadcast_to(mean, self.shape)
        check_std(self.std)
        check_number("mean", mean)
        if (
            self.std.ndim
            and not is_traced(mean, self.std)
            and np.any((np.asarray(self.std) == 0) & (np.asarray(mean) != 0))
        ):
            raise ValueError("mean is outside the range of the prior, where std is zero; shift the data instead.")

    @property
    def rank(self) -> int | Array:
        size = math.prod(self.shape)
        return jnp.sum(self.std > 0).astype(self.dtype) if self.std.ndim else size

    @property
    def log_determinant(self) -> Array:
        logs = 2 * jnp.log(jnp.where(self.std > 0, self.std, 1))
        return jnp.sum(jnp.broadcast_to(logs, self.shape))

    def root(self, z: Event) -> Event:
        return self.std.astype(z.dtype) * self.project(z)

    def covariance_product(self, x: Event) -> Event:
        return self.std.astype(x.dtype) ** 2 * self.project(x)

    def precision_product(self, x: Event) -> Event:
        std = self.std.astype(x.dtype)
        return self.project(x) / jnp.where(std > 0, std, 1) ** 2

    def project(self, x: Event) -> Event:
        return jnp.where(self.std > 0, x, 0) if self.std.ndim else x

    def rescaled(self, factor: Scalar) -> "Gaussian":
        factor = jnp.asarray(factor, self.dtype)
        return Gaussian(self.shape, mean=factor * self.mean, std=factor * self.std, dtype=self.dtype)
