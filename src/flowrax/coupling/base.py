"""What a coupling is: how a batch of noise meets a batch of data."""

import abc

import equinox as eqx

from .._typing import Batch, KeyArray


class AbstractCoupling(eqx.Module):
    """Pairs the rows of two batches."""

    independent: eqx.AbstractClassVar[bool]
    """Whether noise and data stay independent; only then does a model of the pairs have a score."""

    @abc.abstractmethod
    def __call__(self, key: KeyArray, x0: Batch, x1: Batch) -> Batch:
        """The rows of `x0` in the order in which they meet the rows of `x1`; both `(n, *event)`."""
