"""Laws of times that are made of other laws."""

import equinox as eqx
import jax
import jax.numpy as jnp

from .._checks import check_fraction, check_interval
from .._typing import Array, DType, KeyArray, Times
from ..schedule import shift_time
from .base import AbstractTimes, AbstractUnitTimes
from .samplers import Stratified, Uniform


class Mixture(AbstractUnitTimes):
    """Each time from `first` with probability `fraction`, else from `second`."""

    first: AbstractUnitTimes
    second: AbstractUnitTimes
    fraction: float

    def __check_init__(self) -> None:
        check_fraction("fraction", self.fraction)

    def unit(self, key: KeyArray, n: int, dtype: DType) -> Array:
        coin, first, second = jax.random.split(key, 3)
        heads = jax.random.bernoulli(coin, self.fraction, (n,))
        return jnp.where(heads, self.first.unit(first, n, dtype), self.second.unit(second, n, dtype))


class Shifted(AbstractUnitTimes):
    """A law moved towards the noise by [`shift_time`][], for events of many elements (Esser et al. 2024, eq. 23)."""

    times: AbstractUnitTimes
    shift: float

    def unit(self, key: KeyArray, n: int, dtype: DType) -> Array:
        return shift_time(self.times.unit(key, n, dtype), self.shift)


class Stepped(AbstractUnitTimes):
    """Where the steps of a chain start: times of a law, moved down to the nearest of `0, 1 / T, ..., 1 - 1 / T`.

    A uniform law draws every index of a [`DiscreteSchedule`][flowrax.schedule.DiscreteSchedule] of `T` steps equally
    often.
    """

    num_steps: int = eqx.field(static=True)
    times: AbstractUnitTimes = Stratified()

    def __check_init__(self) -> None:
        if not self.num_steps >= 1:
            raise ValueError(f"num_steps must be at least 1; got {self.num_steps}.")

    def unit(self, key: KeyArray, n: int, dtype: DType) -> Array:
        place = jnp.floor(self.times.unit(key, n, dtype) * self.num_steps)
        return jnp.minimum(place, self.num_steps - 1) / self.num_steps


class Within(AbstractTimes):
    """A law on a part of the interval of the model: where `[t_min, t_max]` and that of the model overlap."""

    times: AbstractTimes
    t_min: float
    t_max: float

    def __init__(self, times: AbstractTimes, t_min: float = 0.0, t_max: float = 1.0):
        """**Arguments:**

        - `times`: the law, which is stretched to the interval.
        - `t_min`, `t_max`: the interval. Raises `ValueError` outside [0, 1].
        """
        check_interval(t_min, t_max)
        self.times, self.t_min, self.t_max = times, float(t_min), float(t_max)

    def _ends(self, t_min: float, t_max: float) -> tuple[float, float]:
        low, high = max(t_min, self.t_min), min(t_max, self.t_max)
        if not low < high:
            raise ValueError(
                f"[{self.t_min}, {self.t_max}] has nothing in common with the model's interval [{t_min}, {t_max}]."
            )
        return low, high

    def __call__(self, key: KeyArray, n: int, t_min: float, t_max: float, dtype: DType) -> Array:
        """`n` times in the overlap."""
        return self.times(key, n, *self._ends(t_min, t_max), dtype)

    def correction(self, t: Times, t_min: float, t_max: float) -> Array:
        return self.times.correction(t, *self._ends(t_min, t_max))


class Pairs(AbstractTimes):
    r"""Two times $t \le r$ for each sample, for losses on the motion from $t$ to $r$ (mean flow, flow maps).

    With probability `same` the two coincide, $r = t$, where such a loss is plain flow matching. This is decided for
    each sample by itself, so it depends on nothing else that is drawn by position in the batch. In a time that runs
    from data to noise the pair is $(1 - r, 1 - t)$, with the larger time first.

    Otherwise the two are independent draws of `times`, in order.

    **Reference:** [@geng2025mean].
    """

    times: AbstractTimes = Uniform()
    same: float = 0.75

    def __check_init__(self) -> None:
        # A law with a correction would need it for both times.
        if not isinstance(self.times, AbstractUnitTimes):
            raise ValueError(f"Pairs takes a law on [0, 1], such as Uniform(); got {type(self.times).__name__}.")
        check_fraction("same", self.same)

    def __call__(self, key: KeyArray, n: int, t_min: float, t_max: float, dtype: DType) -> Array:
        """`(n, 2)`: `t` and `r` of every sample."""
        first, second, coin, order = jax.random.split(key, 4)
        a, b = (self.times(k, n, t_min, t_max, dtype) for k in (first, second))
        # A stratified law has its strata in the order of the rows: both times of a row would share one.
        b = jax.random.permutation(order, b)
        low, high = jnp.minimum(a, b), jnp.maximum(a, b)
        # The one kept has the law of `times`: neither the smaller nor the larger of two draws has.
        together = jax.random.bernoulli(coin, self.same, (n,))
        return jnp.stack([jnp.where(together, a, low), jnp.where(together, a, high)], axis=1)

    def correction(self, t: Times, t_min: float, t_max: float) -> Array:
        return jnp.ones(())
