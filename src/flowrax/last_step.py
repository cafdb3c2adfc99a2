"""What may be done with the end state of a sampler whose interval stops before all noise is gone."""

import abc

import equinox as eqx

from ._typing import Condition, Event, Scalar
from .abstract import AbstractContinuousModel


class AbstractLastStep(eqx.Module):
    """Maps the end state to the sample."""

    @abc.abstractmethod
    def __call__(self, model: AbstractContinuousModel, t: Scalar, x: Event, condition: Condition) -> Event:
        """The sample, given the state `x` at time `t`."""


class Tweedie(AbstractLastStep):
    r"""The denoised data $\mathbb{E}[x_1 | x_t]$ (Efron 2011, eq. 1.4)."""

    def __call__(self, model: AbstractContinuousModel, t: Scalar, x: Event, condition: Condition) -> Event:
        return model.predict(t, x, condition).data
