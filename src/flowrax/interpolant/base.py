"""The interpolant interface: a path between one draw of noise and one data point."""

import abc

import equinox as eqx

from .._base.arguments import Checked
from .._base.typing import Event, KeyArray, Times
from ..schedule import AbstractSchedule
from .gamma import AbstractGamma


class AbstractInterpolant(eqx.Module, metaclass=Checked):
    """A conditional path whose scales are given by a schedule."""

    schedule: eqx.AbstractVar[AbstractSchedule]
    gamma: eqx.AbstractVar[AbstractGamma | None]
    """The scale of the latent; None if the path has no latent."""

    @abc.abstractmethod
    def noise(self, key: KeyArray, x0: Event) -> Event:
        """All random inputs of the path other than the data: the draw `x0` of the source, and the latent if any."""

    @abc.abstractmethod
    def interpolate(self, t: Times, x0: Event, x1: Event) -> Event:
        """The point `x_t` of the path from `x0`, as returned by [`noise`][], to the data point `x1`."""

    @abc.abstractmethod
    def velocity(self, t: Times, x0: Event, x1: Event) -> Event:
        """The derivative of `x_t` with respect to `t`, with the arguments of [`interpolate`][]."""
