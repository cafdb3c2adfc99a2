"""What a law of training times is."""

import abc

import equinox as eqx
import jax.numpy as jnp

from .._typing import Array, DType, KeyArray, Times


class AbstractTimes(eqx.Module):
    """Draws the times of a batch."""

    @abc.abstractmethod
    def __call__(self, key: KeyArray, n: int, t_min: float, t_max: float, dtype: DType) -> Array:
        """`n` times in `[t_min, t_max]`; of shape `(n,)`, or `(n, k)` where a loss looks at `k` times at once."""

    @abc.abstractmethod
    def correction(self, t: Times, t_min: float, t_max: float) -> Array:
        """The factor on the loss at one draw `t` that keeps its mean that of uniform times.

        It is one for laws that are meant as weights themselves, and for those without density.
        """


class AbstractUnitTimes(AbstractTimes):
    """A law on `[0, 1]` that is stretched to the interval of the model, and that is a weight itself."""

    @abc.abstractmethod
    def unit(self, key: KeyArray, n: int, dtype: DType) -> Array:
        """`n` times in `[0, 1]`, `(n,)`."""

    def __call__(self, key: KeyArray, n: int, t_min: float, t_max: float, dtype: DType) -> Array:
        """`(n,)`."""
        return t_min + (t_max - t_min) * self.unit(key, n, dtype)

    def correction(self, t: Times, t_min: float, t_max: float) -> Array:
        return jnp.ones(())
