r"""What may be done with the end state of a sampler whose interval stops before all noise is gone.

From the end $t$ a step of size $h$: with $h = 1 - t$ it goes to the data. The steps before it end at $t$ because the
dynamics does: `ReverseSDE(t_max=0.96)`.
"""

import abc

import equinox as eqx
import jax.numpy as jnp

from ._typing import Array, Condition, Event, Scalar
from .abstract import AbstractContinuousModel
from .dynamics import AbstractScoreSDE


class AbstractLastStep(eqx.Module):
    """Maps the end state to the sample."""

    @abc.abstractmethod
    def __call__(self, model: AbstractContinuousModel, t: Scalar, x: Event, condition: Condition) -> Event:
        """The sample, given the state `x` at time `t`."""


class Tweedie(AbstractLastStep):
    r"""The denoised data $\mathbb{E}[x_1 | x_t]$ (Efron 2011, eq. 1.4)."""

    def __call__(self, model: AbstractContinuousModel, t: Scalar, x: Event, condition: Condition) -> Event:
        return model.predict(t, x, condition).data


class MeanStep(AbstractLastStep):
    """An Euler step of a stochastic dynamics without its noise."""

    dynamics: AbstractScoreSDE
    size: float | None = None
    """Of the step; None goes up to `t = 1`."""

    def __call__(self, model: AbstractContinuousModel, t: Scalar, x: Event, condition: Condition) -> Event:
        return x + _size(self.size, t, x) * self.dynamics.drift(t, x, (model, condition))


class EulerStep(AbstractLastStep):
    """An Euler step of the probability flow."""

    size: float | None = None
    """Of the step; None goes up to `t = 1`."""

    def __call__(self, model: AbstractContinuousModel, t: Scalar, x: Event, condition: Condition) -> Event:
        return x + _size(self.size, t, x) * model.predict(t, x, condition).velocity


def _size(size: float | None, t: Scalar, x: Event) -> Array:
    return (1 - jnp.asarray(t)).astype(x.dtype) if size is None else jnp.asarray(size, x.dtype)
