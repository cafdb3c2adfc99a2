"""Distributions of the training time on the unit interval (0 is noise, 1 is data)."""

import jax
import jax.numpy as jnp

from .._base.checks import check_not_negative, check_number, check_positive
from .._base.typing import Array, DType, KeyArray
from .base import AbstractUnitTimes


class Uniform(AbstractUnitTimes):
    """Independent uniform times."""

    def unit(self, key: KeyArray, n: int, dtype: DType) -> Array:
        return jax.random.uniform(key, (n,), dtype)


class Antithetic(AbstractUnitTimes):
    """Uniform times in antithetic pairs `u` and `1 - u`: parts of the loss that are odd about 1/2 cancel in a batch."""

    def unit(self, key: KeyArray, n: int, dtype: DType) -> Array:
        half = jax.random.uniform(key, ((n + 1) // 2,), dtype)
        return jnp.concatenate([half, 1 - half])[:n]


class Stratified(AbstractUnitTimes):
    """An even grid with one random shift (Kingma et al. 2021, appendix I.1).

    Each time is uniform, and the mean of the loss over a batch has less variance than with independent times.
    """

    def unit(self, key: KeyArray, n: int, dtype: DType) -> Array:
        shift = jax.random.uniform(key, (), dtype)
        return jnp.mod(shift + jnp.arange(n, dtype=dtype) / n, 1)


class LogitNormal(AbstractUnitTimes):
    """The logistic function of a Gaussian (Esser et al. 2024, eq. 19): more weight on the middle of the path.

    Reverse the sign of a `mean` that was chosen for a time that runs from data to noise.
    """

    mean: float = 0.0
    std: float = 1.0

    def __check_init__(self) -> None:
        check_number("mean", self.mean)
        check_not_negative("std", self.std)

    def unit(self, key: KeyArray, n: int, dtype: DType) -> Array:
        return jax.nn.sigmoid(self.mean + self.std * jax.random.normal(key, (n,), dtype))


class Beta(AbstractUnitTimes):
    """The beta distribution, with density proportional to `t^(a - 1) (1 - t)^(b - 1)`.

    The default puts more weight on the data end. Exchange `a` and `b` if they were chosen for a time that runs from
    data to noise.
    """

    a: float = 2.0
    b: float = 1.0

    def __check_init__(self) -> None:
        check_positive("a", self.a)
        check_positive("b", self.b)

    def unit(self, key: KeyArray, n: int, dtype: DType) -> Array:
        return jax.random.beta(key, self.a, self.b, (n,), dtype)
