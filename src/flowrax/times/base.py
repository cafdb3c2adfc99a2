"""The interface of distributions of training times."""

import abc

import equinox as eqx
import jax.numpy as jnp

from .._base.arguments import Checked
from .._base.checks import time_dtype
from .._base.typing import Array, DType, KeyArray, Times


class AbstractTimes(eqx.Module, metaclass=Checked):
    """A distribution of training times, from which the times of a batch are drawn."""

    @abc.abstractmethod
    def __call__(self, key: KeyArray, n: int, t_min: float, t_max: float, dtype: DType) -> Array:
        """`n` times in `[t_min, t_max]`: `(n,)`, or `(n, k)` for losses that use `k` times per sample."""

    @abc.abstractmethod
    def correction(self, t: Times, t_min: float, t_max: float) -> Array:
        """The importance weight of one draw `t`: the mean of the weighted loss equals its mean over uniform times.

        It is one for distributions that are themselves meant to weight the loss, and for distributions without a
        density.
        """


class AbstractUnitTimes(AbstractTimes):
    """A distribution on `[0, 1]`, mapped linearly to the model's interval. It weights the loss: no correction."""

    @abc.abstractmethod
    def unit(self, key: KeyArray, n: int, dtype: DType) -> Array:
        """`n` times in `[0, 1]`, of shape `(n,)`; `dtype` has at least single precision."""

    def __call__(self, key: KeyArray, n: int, t_min: float, t_max: float, dtype: DType) -> Array:
        """`n` times in `[t_min, t_max]`, of shape `(n,)`."""
        return (t_min + (t_max - t_min) * self.unit(key, n, time_dtype(dtype))).astype(dtype)

    def correction(self, t: Times, t_min: float, t_max: float) -> Array:
        return jnp.ones(())
