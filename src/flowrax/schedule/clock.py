"""Conversions to and from the time conventions of other libraries and papers. Here `t = 0` is noise, `t = 1` is data.

A network `net` that expects another time becomes a network of this library as
`lambda t, x, condition: net(clock.theirs(t), x, condition)`. Its output may have to be converted too: a velocity with
respect to another time is `dx/dt` divided by the derivative of that time, so its sign changes if the other time runs
from data to noise.
"""

import abc

import equinox as eqx
import jax.numpy as jnp

from .._base.arguments import Checked
from .._base.checks import check_count, check_positive
from .._base.typing import Array, Times
from .base import AbstractSchedule


class AbstractClock(eqx.Module, metaclass=Checked):
    """A one-to-one map between this library's time and another convention."""

    @abc.abstractmethod
    def ours(self, theirs: Times) -> Array:
        """This library's time, elementwise."""

    @abc.abstractmethod
    def theirs(self, t: Times) -> Array:
        """The other time, elementwise."""


class DiffusionClock(AbstractClock):
    r"""Time that runs from data at 0 to noise at $T$ = `duration`: $\tau = T (1 - t)$.

    bionemo-moco's `TimeDirection.DIFFUSION` and DiffuseNNX use `duration=1`; flowfusion's SDEs use their own `T`.
    A rate per unit of $\tau$, such as $\beta$ or $g^2$, is this library's rate divided by $T$; $g$ is divided by
    $\sqrt{T}$.
    """

    duration: float = 1.0

    def __check_init__(self) -> None:
        check_positive("duration", self.duration)

    def ours(self, theirs: Times) -> Array:
        return 1 - jnp.asarray(theirs) / self.duration

    def theirs(self, t: Times) -> Array:
        return self.duration * (1 - jnp.asarray(t))


class IndexClock(AbstractClock):
    r"""The index of a chain of `T` steps, where 0 is the least noisy state: $i = T (1 - t) - 1$, not rounded.

    This is the discrete time of DDPM and bionemo-moco as a float; [`DiscreteSchedule.index`][] rounds it.
    """

    num_steps: int

    def __check_init__(self) -> None:
        check_count("num_steps", self.num_steps)

    def ours(self, theirs: Times) -> Array:
        return 1 - (jnp.asarray(theirs) + 1) / self.num_steps

    def theirs(self, t: Times) -> Array:
        return self.num_steps * (1 - jnp.asarray(t)) - 1


class SigmaClock(AbstractClock):
    r"""The time is the noise per unit of data, $\sigma / \alpha$ of a schedule, as in EDM (Karras et al. 2022)."""

    schedule: AbstractSchedule

    def ours(self, theirs: Times) -> Array:
        return self.schedule.time_at(-2 * jnp.log(theirs))

    def theirs(self, t: Times) -> Array:
        return jnp.exp(-self.schedule.log_snr(t) / 2)


class LogSNRClock(AbstractClock):
    r"""The time is the log-SNR $\lambda$ of a schedule; VDM uses $\gamma = -\lambda$."""

    schedule: AbstractSchedule

    def ours(self, theirs: Times) -> Array:
        return self.schedule.time_at(theirs)

    def theirs(self, t: Times) -> Array:
        return self.schedule.log_snr(t)
