"""What an interpolant is: the path between one draw of noise and one of data."""

import abc

import equinox as eqx

from .._typing import Event, Times
from ..schedule import AbstractSchedule


class AbstractInterpolant(eqx.Module):
    """A conditional path with the scales of a schedule."""

    schedule: eqx.AbstractVar[AbstractSchedule]

    @abc.abstractmethod
    def interpolate(self, t: Times, x0: Event, x1: Event) -> Event:
        """The point `x_t` of the path from noise `x0` to data `x1`."""

    @abc.abstractmethod
    def velocity(self, t: Times, x0: Event, x1: Event) -> Event:
        """The rate of `x_t` in `t`."""
