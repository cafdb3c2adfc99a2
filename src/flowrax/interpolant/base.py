"""What an interpolant is: the path between one draw of noise and one of data."""

import abc

import equinox as eqx

from .._typing import Event, KeyArray, Times
from ..schedule import AbstractSchedule
from .gamma import AbstractGamma


class AbstractInterpolant(eqx.Module):
    """A conditional path with the scales of a schedule."""

    schedule: eqx.AbstractVar[AbstractSchedule]
    gamma: eqx.AbstractVar[AbstractGamma | None]
    """The scale of a latent, where the path has one."""

    @abc.abstractmethod
    def noise(self, key: KeyArray, x0: Event) -> Event:
        """All that the path is random in beside the data, given the draw `x0` of the source."""

    @abc.abstractmethod
    def interpolate(self, t: Times, x0: Event, x1: Event) -> Event:
        """The point `x_t` of the path from `x0`, as [`noise`][] gives it, to data `x1`."""

    @abc.abstractmethod
    def velocity(self, t: Times, x0: Event, x1: Event) -> Event:
        """The rate of `x_t` in `t`."""
