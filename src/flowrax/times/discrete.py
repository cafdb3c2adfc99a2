"""Laws of the index of a chain."""

import equinox as eqx
import jax.numpy as jnp

from .._typing import Array, KeyArray, Times
from .base import AbstractUnitTimes
from .samplers import Uniform


class Discrete(eqx.Module):
    """Indices that are distributed as a law of times on a grid of `num_steps` cells.

    Index 0 is at the end 0 of the law: the least noisy state of a chain if that law was made for a time that runs from
    data to noise, so mind the direction of a [`Beta`][].
    """

    times: AbstractUnitTimes = Uniform()
    num_steps: int = 1000
    nearest: bool = False
    """Whether an index stands for the point `i / (num_steps - 1)`, of which it is the nearest, and not for the cell
    from `i / num_steps` to `(i + 1) / num_steps`. Then both ends are drawn half as often: a uniform law is uneven."""

    def __call__(self, key: KeyArray, n: int) -> Array:
        """`(n,)` integers between 0 and `num_steps - 1`."""
        u = self.times.unit(key, n, jnp.result_type(float))
        if self.nearest:
            return time_to_index(u, self.num_steps)
        return jnp.minimum(jnp.floor(u * self.num_steps).astype(jnp.int32), self.num_steps - 1)


def time_to_index(t: Times, num_steps: int) -> Array:
    """The nearest of `num_steps` even points on [0, 1].

    **Arguments:**

    - `t`: times, clipped to [0, 1].
    - `num_steps`: the number of points, both ends included.

    **Returns:** integers of the shape of `t`; halves are rounded to the even index.
    """
    return jnp.round(jnp.clip(jnp.asarray(t), 0, 1) * (num_steps - 1)).astype(jnp.int32)
