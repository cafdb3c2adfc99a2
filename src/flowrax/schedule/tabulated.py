r"""A chain of discrete steps as a schedule in continuous time."""

from collections.abc import Mapping
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from .._typing import Array, Times
from .discrete import DiscreteSchedule
from .variance_preserving import AbstractVariancePreserving


class Tabulated(AbstractVariancePreserving):
    r"""The VP process whose rate is constant within each step of a chain: it passes through every $\bar\alpha_i$.

    Step $i$ lasts from $s = i / T$ to $(i + 1) / T$ in diffusion time $s = 1 - t$, with
    $\beta = -T \log (1 - \beta_i)$, so a network that was trained on the chain is a network of this schedule at the
    times [`DiscreteSchedule.time`][] of its indices, and everything that is made for continuous time serves it.
    The rate jumps between steps, by about its change over one step: adaptive solvers notice where `T` is small.
    """

    table: DiscreteSchedule = eqx.field(static=True)
    singularities: ClassVar[Mapping[str, tuple[float, ...]]] = {"log_snr": (1.0,), "sigma_rate": (1.0,)}

    def __init__(self, table: DiscreteSchedule):
        """**Arguments:**

        - `table`: of the chain.
        """
        self.table = table

    def _knots(self) -> tuple[np.ndarray, np.ndarray]:
        """Diffusion time and integrated rate at the ends of all steps."""
        steps = -np.log1p(-np.asarray(self.table.rates))
        return np.linspace(0, 1, len(steps) + 1), np.concatenate([[0.0], np.cumsum(steps)])

    def rate(self, t: Times) -> Array:
        s = 1 - jnp.asarray(t)
        size = self.table.num_steps
        step = jnp.clip(jnp.ceil(s * size).astype(jnp.int32) - 1, 0, size - 1)
        return jnp.asarray(np.diff(self._knots()[1]) * size, s.dtype)[step]

    def integral(self, t: Times) -> Array:
        s = 1 - jnp.asarray(t)
        times, values = self._knots()
        return jnp.interp(s, jnp.asarray(times, s.dtype), jnp.asarray(values, s.dtype))

    def time_at_integral(self, integral: Array) -> Array:
        times, values = (jnp.asarray(v, integral.dtype) for v in self._knots())
        return 1 - jnp.interp(integral, values, times)
