"""Where to train: laws of the time at which a loss is evaluated."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp

from .._typing import Array, DType, KeyArray


class AbstractTimes(eqx.Module):
    """Draws the times of a batch."""

    @abc.abstractmethod
    def unit(self, key: KeyArray, n: int, dtype: DType) -> Array:
        """`n` times in `[0, 1]`, to be scaled to the interval of the model."""

    def __call__(self, key: KeyArray, n: int, t_min: float, t_max: float, dtype: DType) -> Array:
        """`n` times in `[t_min, t_max]`."""
        return t_min + (t_max - t_min) * self.unit(key, n, dtype)


class Uniform(AbstractTimes):
    """Independent uniform times."""

    def unit(self, key: KeyArray, n: int, dtype: DType) -> Array:
        return jax.random.uniform(key, (n,), dtype)


class Stratified(AbstractTimes):
    """One uniform shift of an even grid (Kingma et al. 2021, appendix I.1): uniform, with less variance in the loss."""

    def unit(self, key: KeyArray, n: int, dtype: DType) -> Array:
        shift = jax.random.uniform(key, (), dtype)
        return jnp.mod(shift + jnp.arange(n, dtype=dtype) / n, 1)


class LogitNormal(AbstractTimes):
    """The logistic function of a Gaussian (Esser et al. 2024, eq. 19): more weight on the middle of the path."""

    mean: float = 0.0
    std: float = 1.0

    def unit(self, key: KeyArray, n: int, dtype: DType) -> Array:
        return jax.nn.sigmoid(self.mean + self.std * jax.random.normal(key, (n,), dtype))
