r"""Continuous-time schedules that interpolate a chain of discrete steps."""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from .._base.typing import Array, Times
from .base import Singularities
from .discrete import DiscreteSchedule
from .variance_preserving import AbstractVariancePreserving


class Tabulated(AbstractVariancePreserving):
    r"""The VP process with a constant rate within each step of a chain: it passes through every $\bar\alpha_i$.

    Step $i$ lasts from $s = i / T$ to $(i + 1) / T$ in diffusion time $s = 1 - t$ and has the rate
    $\beta = -T \log (1 - \beta_i)$. A network that was trained on the chain is therefore a network of this schedule at
    the times [`DiscreteSchedule.time`][] of its indices, and all continuous-time methods apply to it. The rate is
    discontinuous between steps, which costs adaptive solvers extra steps if `T` is small.
    """

    table: DiscreteSchedule = eqx.field(static=True)
    singularities: ClassVar[Singularities] = Singularities(log_snr=(1.0,), sigma_rate=(1.0,))

    def __init__(self, table: DiscreteSchedule):
        """**Arguments:**

        - `table`: the rates of the chain.
        """
        self.table = table

    def _knots(self) -> tuple[np.ndarray, np.ndarray]:
        """The diffusion time and the integrated rate $B$ at the ends of all steps, each `(T + 1,)`."""
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
