"""Distributions of times, and of the index of a chain, that are built from other distributions."""

import equinox as eqx
import jax
import jax.numpy as jnp

from .._base import random
from .._base.arguments import Checked, checked
from .._base.checks import check_count, check_fraction, check_interval, check_positive, plain_int
from .._base.typing import Array, DType, KeyArray, Times
from ..schedule import shift_time
from .base import AbstractTimes, AbstractUnitTimes
from .distributions import Stratified, Uniform


class MixtureTimes(AbstractUnitTimes):
    """Each time is drawn from `first` with probability `fraction`, and otherwise from `second`."""

    first: AbstractUnitTimes
    second: AbstractUnitTimes
    fraction: float

    def __check_init__(self) -> None:
        check_fraction("fraction", self.fraction)

    def unit(self, key: KeyArray, n: int, dtype: DType) -> Array:
        coin, first, second = jax.random.split(random.as_threefry(key), 3)
        heads = random.bernoulli(coin, self.fraction, (n,))
        return jnp.where(heads, self.first.unit(first, n, dtype), self.second.unit(second, n, dtype))


class Shifted(AbstractUnitTimes):
    """Times shifted towards the noise end by [`shift_time`][], for large events (Esser et al. 2024, eq. 23)."""

    times: AbstractUnitTimes
    shift: float

    def __check_init__(self) -> None:
        check_positive("shift", self.shift)

    def unit(self, key: KeyArray, n: int, dtype: DType) -> Array:
        return shift_time(self.times.unit(key, n, dtype), self.shift)


class Stepped(AbstractUnitTimes):
    """The start times of the steps of a chain: draws rounded down to one of `0, 1 / T, ..., 1 - 1 / T`.

    With uniform `times`, every index of a [`DiscreteSchedule`][flowrax.schedule.DiscreteSchedule] of `T` steps has the
    same probability.
    """

    num_steps: int = eqx.field(static=True, converter=plain_int)
    times: AbstractUnitTimes = Stratified()

    def __check_init__(self) -> None:
        if not self.num_steps >= 1:
            raise ValueError(f"num_steps must be at least 1; got {self.num_steps}.")

    def unit(self, key: KeyArray, n: int, dtype: DType) -> Array:
        return _cell(self.times.unit(key, n, dtype), self.num_steps) / self.num_steps


class Discrete(eqx.Module, metaclass=Checked):
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
        check_count("num_steps", self.num_steps)

    def __call__(self, key: KeyArray, n: int) -> Array:
        """`n` random indices: `(n,)` integers between 0 and `num_steps - 1`."""
        u = self.times.unit(key, n, jnp.result_type(float))
        if self.nearest:
            return time_to_index(u, self.num_steps)
        return _cell(u, self.num_steps).astype(jnp.int32)


@checked
def time_to_index(t: Times, num_steps: int) -> Array:
    """The index of the nearest of `num_steps` evenly spaced points on [0, 1].

    **Arguments:**

    - `t`: times, clipped to [0, 1].
    - `num_steps`: the number of points, both ends included.

    **Returns:** integers with the shape of `t`; ties are rounded to the even index.
    """
    check_count("num_steps", num_steps)
    return jnp.round(jnp.clip(jnp.asarray(t), 0, 1) * (num_steps - 1)).astype(jnp.int32)


def _cell(u: Array, num_cells: int) -> Array:
    """The index, as a float, of the cell of `[0, 1]` that contains each of the times `u`."""
    return jnp.minimum(jnp.floor(u * num_cells), num_cells - 1)


class Within(AbstractTimes):
    """Times restricted to the overlap of `[t_min, t_max]` and the model's interval."""

    times: AbstractTimes
    t_min: float
    t_max: float

    def __init__(self, times: AbstractTimes, t_min: float = 0.0, t_max: float = 1.0):
        """**Arguments:**

        - `times`: the distribution, which is evaluated on the overlap.
        - `t_min`, `t_max`: the interval. Raises `ValueError` unless `0 <= t_min < t_max <= 1`.
        """
        check_interval(t_min, t_max)
        self.times, self.t_min, self.t_max = times, float(t_min), float(t_max)

    def _ends(self, t_min: float, t_max: float) -> tuple[float, float]:
        low, high = max(t_min, self.t_min), min(t_max, self.t_max)
        if not low < high:
            raise ValueError(
                f"The interval [{self.t_min}, {self.t_max}] of times.Within has nothing in common with the model's "
                f"interval [{t_min}, {t_max}]; choose one that overlaps it."
            )
        return low, high

    def __call__(self, key: KeyArray, n: int, t_min: float, t_max: float, dtype: DType) -> Array:
        """`n` times in the overlap. Raises `ValueError` if the two intervals do not overlap."""
        return self.times(key, n, *self._ends(t_min, t_max), dtype)

    def correction(self, t: Times, t_min: float, t_max: float) -> Array:
        return self.times.correction(t, *self._ends(t_min, t_max))


class TimePairs(AbstractTimes):
    r"""Two times $t \le r$ per sample, for losses on the displacement from $t$ to $r$ (mean flow, flow maps).

    With probability `same` the two times coincide, $r = t$, and such a loss reduces to flow matching. Otherwise they
    are two independent draws from `times`, sorted. The choice is made independently for each sample, so it does not
    correlate with other random numbers that depend on the position in the batch. In a time that runs from data to
    noise the pair is $(1 - r, 1 - t)$, with the larger time first.

    **Reference:** [@geng2025mean].
    """

    times: AbstractTimes = Uniform()
    same: float = 0.75

    def __check_init__(self) -> None:
        # A distribution with a correction would need it for both times.
        if not isinstance(self.times, AbstractUnitTimes):
            kind = type(self.times).__name__
            raise ValueError(f"TimePairs takes a distribution on [0, 1], e.g. Uniform(); got {kind}.")
        check_fraction("same", self.same)

    def __call__(self, key: KeyArray, n: int, t_min: float, t_max: float, dtype: DType) -> Array:
        """The times `t` and `r` of every sample, `(n, 2)`."""
        first, second, coin, order = jax.random.split(random.as_threefry(key), 4)
        a, b = (self.times(k, n, t_min, t_max, dtype) for k in (first, second))
        # Stratified draws are ordered by stratum, so both times of a sample would fall into the same stratum.
        b = random.permutation(order, b)
        low, high = jnp.minimum(a, b), jnp.maximum(a, b)
        # Keep `a`, which is distributed as `times`; the smaller and the larger of two draws are not.
        together = random.bernoulli(coin, self.same, (n,))
        return jnp.stack([jnp.where(together, a, low), jnp.where(together, a, high)], axis=1)

    def correction(self, t: Times, t_min: float, t_max: float) -> Array:
        return jnp.ones(())
