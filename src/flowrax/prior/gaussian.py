r"""$x_0 \sim \mathcal{N}(\mu, s^2 I)$."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp

from .._typing import Array, DType, Event, KeyArray, Shape
from .base import AbstractPrior


class Gaussian(AbstractPrior):
    """An isotropic Gaussian."""

    mean: Array
    std: Array
    shape: Shape = eqx.field(static=True)
    dtype: DType = eqx.field(static=True)

    def __init__(
        self,
        shape: Shape,
        *,
        mean: float | Array = 0.0,
        std: float | Array = 1.0,
        dtype: DType | None = None,
    ):
        """**Arguments:**

        - `shape`: of one event.
        - `mean`: a scalar or an array of that shape.
        - `std`: the standard deviation of every element, a scalar.
        - `dtype`: floating; JAX's default without.
        """
        self.shape = tuple(shape)
        self.dtype = jnp.dtype(jnp.result_type(float) if dtype is None else dtype)
        self.mean = jnp.broadcast_to(jnp.asarray(mean, self.dtype), self.shape)
        self.std = jnp.asarray(std, self.dtype)

    def draw(self, key: KeyArray) -> Event:
        return self.mean + self.std * jax.random.normal(key, self.shape, self.dtype)

    def log_density(self, x: Event) -> Array:
        z = (x - self.mean) / self.std
        size = math.prod(self.shape)
        return -0.5 * jnp.sum(z**2) - size * (jnp.log(self.std) + 0.5 * math.log(2 * math.pi))
