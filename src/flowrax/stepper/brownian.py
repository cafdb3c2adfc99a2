r"""Brownian increments for a fixed grid, recomputed from a counter: interval $k$ draws from `fold_in(key, k)`.

Over an interval of length $h$: $W \sim \mathcal{N}(0, h)$ and the space-time Levy areas $H \sim \mathcal{N}(0, h / 12)$
and $K \sim \mathcal{N}(0, h / 720)$, independent (Foster et al. 2020). There is no Brownian tree to traverse: a step
costs one draw.
"""

import math

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp

from .._base import random
from .._base.arguments import Checked
from .._base.checks import time_dtype
from .._base.typing import Array, DType, KeyArray, Scalar, Shape

BrownianRecord = dfx.BrownianIncrement | dfx.SpaceTimeLevyArea | dfx.SpaceTimeTimeLevyArea


class GridBrownianPath(dfx.AbstractBrownianPath, metaclass=Checked):
    """A Brownian motion that is defined only by its increments over the intervals of a grid."""

    times: Array
    key: KeyArray
    shape: Shape = eqx.field(static=True)
    dtype: DType = eqx.field(static=True)
    levy_area: type[BrownianRecord] = eqx.field(static=True)

    def __init__(
        self,
        times: Array,
        shape: Shape,
        key: KeyArray,
        *,
        dtype: DType,
        levy_area: type[BrownianRecord] = dfx.BrownianIncrement,
    ):
        """**Arguments:**

        - `times`: the grid, increasing, `(k + 1,)`.
        - `shape`: the shape of an increment.
        - `key`: interval `k` draws from `fold_in(key, k)` only.
        - `dtype`: the dtype of an increment.
        - `levy_area`: the diffrax record of increments that the solver needs. Default: `BrownianIncrement`.
        """
        self.times, self.key = times, random.as_threefry(key)
        self.shape, self.dtype, self.levy_area = tuple(shape), dtype, levy_area

    @property
    def t0(self) -> Array:
        return self.times[0]

    @property
    def t1(self) -> Array:
        return self.times[-1]

    def evaluate(
        self, t0: Scalar, t1: Scalar | None = None, left: bool = True, use_levy: bool = False
    ) -> Array | BrownianRecord:
        """The increment from `t0` to `t1`, which must be neighbours in the grid; NaN over more than one interval.

        Raises `ValueError` where `t1` is None.
        """
        if t1 is None:
            raise ValueError("GridBrownianPath provides increments only; pass both t0 and t1.")
        t0, t1 = jnp.asarray(t0), jnp.asarray(t1)
        index = jnp.searchsorted(self.times, ((t0 + t1) / 2).astype(self.times.dtype)) - 1
        work = time_dtype(self.dtype)
        key, length = jax.random.fold_in(self.key, index), (t1 - t0).astype(work)
        left_end = jnp.maximum(index, 0)
        interval = (self.times[left_end + 1] - self.times[left_end]).astype(work)
        # The margin allows for times that were rounded to another precision.
        length = jnp.where(length <= 1.01 * interval, length, jnp.nan)
        variances = (1, 12, 720)[: num_areas(self.levy_area) if use_levy else 1]
        # The first part does not depend on how many parts are drawn, so W is the same with and without Levy areas.
        normal = random.normal(key, (len(variances), *self.shape), work)
        scales = [jnp.sqrt(length) / math.sqrt(variance) for variance in variances]
        parts = [(scale * normal[i]).astype(self.dtype) for i, scale in enumerate(scales)]
        return self.levy_area(length.astype(self.dtype), *parts) if use_levy else parts[0]


def num_areas(levy_area: type[BrownianRecord]) -> int:
    """How many of `W`, `H` and `K` a record of increments holds."""
    return 1 + (levy_area is not dfx.BrownianIncrement) + (levy_area is dfx.SpaceTimeTimeLevyArea)


def levy_area_of(solver: dfx.AbstractSolver) -> type[BrownianRecord]:
    """The type of diffrax record that holds the increments a solver needs."""
    if isinstance(solver, dfx.AbstractWrappedSolver):
        return levy_area_of(solver.solver)
    needed = getattr(solver, "minimal_levy_area", dfx.AbstractBrownianIncrement)
    if issubclass(needed, dfx.AbstractSpaceTimeTimeLevyArea):
        return dfx.SpaceTimeTimeLevyArea
    if issubclass(needed, dfx.AbstractSpaceTimeLevyArea):
        return dfx.SpaceTimeLevyArea
    return dfx.BrownianIncrement
