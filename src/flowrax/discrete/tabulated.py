r"""The masking schedule of a table of a discrete-time chain."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._base.typing import Array, Times
from ..schedule import DiscreteSchedule, Tabulated
from .schedule import AbstractMasking


class TabulatedMasking(AbstractMasking):
    r"""$\alpha = \bar\alpha_i$ at the time of index `i` of a chain, as in D3PM with absorbing or uniform noise.

    As in [`Tabulated`][], the rate is constant within each step. A time that agrees with the time of an index up to
    rounding gives that index's $\bar\alpha$ exactly, in any precision. `sample(grid=table.num_steps)` takes the steps
    of the chain.
    """

    table: DiscreteSchedule = eqx.field(static=True)

    def __init__(self, table: DiscreteSchedule):
        """**Arguments:**

        - `table`: the rates of the chain.
        """
        self.table = table

    @property
    def eps(self) -> float:
        return float(np.exp(self._logs()[-1]))

    def _logs(self) -> np.ndarray:
        r"""$\log \bar\alpha$, from clean data to the last index."""
        return np.concatenate([[0.0], np.cumsum(np.log1p(-np.asarray(self.table.rates)))])

    def _place(self, t: Times) -> tuple[Array, Array]:
        """The number of completed steps at `t`, and the integrated rate within the current step."""
        u = (1 - jnp.asarray(t)) * self.table.num_steps
        near = jnp.round(u)
        close = jnp.abs(u - near) <= 4 * self.table.num_steps * jnp.finfo(u.dtype).eps
        # The correction is a constant, so it does not change the derivative.
        u = u + jax.lax.stop_gradient(jnp.where(close, near - u, 0))
        passed = jnp.clip(jnp.floor(u), 0, self.table.num_steps)
        steps = passed.astype(jnp.int32)
        rates = np.append(-np.diff(self._logs()), 0.0)
        return steps, jnp.asarray(rates, u.dtype)[steps] * (u - passed)

    def alpha(self, t: Times) -> Array:
        steps, begun = self._place(t)
        return jnp.asarray(np.exp(self._logs()), begun.dtype)[steps] * jnp.exp(-begun)

    def alpha_rate(self, t: Times) -> Array:
        return Tabulated(self.table).rate(t) * self.alpha(t)

    def mask_probability(self, t: Times) -> Array:
        steps, begun = self._place(t)
        kept, lost = (jnp.asarray(v, begun.dtype)[steps] for v in (np.exp(self._logs()), -np.expm1(self._logs())))
        return lost - kept * jnp.expm1(-begun)

    def time_at(self, alpha: Times) -> Array:
        return Tabulated(self.table).time_at_integral(-jnp.log(jnp.asarray(alpha)))
