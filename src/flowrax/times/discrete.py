"""Distributions of the index of a chain of discrete steps."""

import equinox as eqx
import jax.numpy as jnp

from .._base.checks import check_count, check_fields
from .._base.typing import Array, KeyArray, Times
from .base import AbstractUnitTimes
from .samplers import Uniform


class Discrete(eqx.Module):
    """Random indices: draws of a distribution on [0, 1], discretised to `num_steps` values.

    Index 0 corresponds to 0 in `times`. By convention index 0 is the least noisy state of a chain, so `times` must be
    a distribution of a time that runs from data to noise. This matters for asymmetric distributions such as [`Beta`][].
    """

    times: AbstractUnitTimes = Uniform()
    num_steps: int = 1000
    nearest: bool = False
    """Whether a draw is rounded to the nearest of the points `i / (num_steps - 1)`. If not, index `i` is the cell from
    `i / num_steps` to `(i + 1) / num_steps`. With rounding and uniform `times` the first and the last index have half
    the probability of the others. Default: `False`."""

    def __check_init__(self) -> None:
        check_fields(self)
        check_count("num_steps", self.num_steps)

    def __call__(self, key: KeyArray, n: int) -> Array:
        """`n` random indices: `(n,)` integers between 0 and `num_steps - 1`."""
        u = self.times.unit(key, n, jnp.result_type(float))
        if self.nearest:
            return time_to_index(u, self.num_steps)
        return jnp.minimum(jnp.floor(u * self.num_steps).astype(jnp.int32), self.num_steps - 1)


def time_to_index(t: Times, num_steps: int) -> Array:
    """The index of the nearest of `num_steps` evenly spaced points on [0, 1].

    **Arguments:**

    - `t`: times, clipped to [0, 1].
    - `num_steps`: the number of points, both ends included.

    **Returns:** integers with the shape of `t`; ties are rounded to the even index.
    """
    return jnp.round(jnp.clip(jnp.asarray(t), 0, 1) * (num_steps - 1)).astype(jnp.int32)
