"""What a prior is: a law one can sample and, where it is known, evaluate."""

import abc

import equinox as eqx

from .._typing import Array, DType, Event, KeyArray, Shape


class AbstractPrior(eqx.Module):
    """The law of one event of a fixed shape and dtype."""

    shape: eqx.AbstractVar[Shape]
    dtype: eqx.AbstractVar[DType]

    @abc.abstractmethod
    def draw(self, key: KeyArray) -> Event:
        """One event of shape `shape`."""

    @abc.abstractmethod
    def log_density(self, x: Event) -> Array:
        """Log-density of one event, a scalar in nats."""
