"""Times of other libraries and papers, there and back: here `t = 0` is noise and `t = 1` is data.

A network `net` that expects another time is a network of this library as
`lambda t, x, condition: net(clock.theirs(t), x, condition)`. What it predicts may need care as well: a velocity with
respect to another time is `dx/dt` divided by the derivative of their time, so it changes its sign where their time
runs from data to noise.
"""

import abc

import equinox as eqx
import jax.numpy as jnp

from .._typing import Array, Times
from .base import AbstractSchedule


class AbstractClock(eqx.Module):
    """A one-to-one map between this library's time and another."""

    @abc.abstractmethod
    def ours(self, theirs: Times) -> Array:
        """The time of this library, elementwise."""

    @abc.abstractmethod
    def theirs(self, t: Times) -> Array:
        """The other time, elementwise."""


class DiffusionClock(AbstractClock):
    r"""Time from data at 0 to noise at `duration`: $\tau = T (1 - t)$.

    bionemo-moco's `TimeDirection.DIFFUSION` and DiffuseNNX with `duration=1`, flowfusion's SDEs with their `T`.
    A rate per unit of their time is ours divided by $T$: so $\beta$, and $g^2$, but $g$ by $\sqrt{T}$.
    """

    duration: float = 1.0

    def ours(self, theirs: Times) -> Array:
        return 1 - jnp.asarray(theirs) / self.duration

    def theirs(self, t: Times) -> Array:
        return self.duration * (1 - jnp.asarray(t))


class IndexClock(AbstractClock):
    r"""The index of a chain of `T` steps, 0 the least noisy: $i = T (1 - t) - 1$, not rounded.

    DDPM and bionemo-moco's discrete time, as floats; [`DiscreteSchedule.index`][] rounds.
    """

    num_steps: int

    def ours(self, theirs: Times) -> Array:
        return 1 - (jnp.asarray(theirs) + 1) / self.num_steps

    def theirs(self, t: Times) -> Array:
        return self.num_steps * (1 - jnp.asarray(t)) - 1


class SigmaClock(AbstractClock):
    r"""The time is the noise per unit of data, $\sigma / \alpha$ of a schedule: EDM's (Karras et al. 2022)."""

    schedule: AbstractSchedule

    def ours(self, theirs: Times) -> Array:
        return self.schedule.time_at(-2 * jnp.log(theirs))

    def theirs(self, t: Times) -> Array:
        return jnp.exp(-self.schedule.log_snr(t) / 2)


class LogSNRClock(AbstractClock):
    r"""The time is the log-SNR of a schedule; $\gamma = -\lambda$ in VDM."""

    schedule: AbstractSchedule

    def ours(self, theirs: Times) -> Array:
        return self.schedule.time_at(theirs)

    def theirs(self, t: Times) -> Array:
        return self.schedule.log_snr(t)
