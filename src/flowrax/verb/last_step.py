r"""Last steps: from the final state of a sampler whose interval ends before all noise is removed, towards the data.

A last step goes from the end $t$ of the dynamics' interval, 0.96 for `ReverseSDE(t_max=0.96)`, to $t + h$. With the
step size $h = 1 - t$ it reaches the data.
"""

import abc

import equinox as eqx
import jax.numpy as jnp

from .._base.arguments import Checked
from .._base.checks import check_positive
from .._base.typing import Array, Condition, Event, Scalar
from ..dynamics import AbstractScoreSDE
from ..model.base import AbstractContinuousModel
from ..model.trained import check_data_prediction


class AbstractLastStep(eqx.Module, metaclass=Checked):
    """Maps the final state of the dynamics to the sample."""

    @abc.abstractmethod
    def check(self, model: AbstractContinuousModel, t: Scalar) -> None:
        """Raises `ValueError` where this last step cannot start from a state of the model at time `t`."""

    @abc.abstractmethod
    def __call__(self, model: AbstractContinuousModel, t: Scalar, x: Event, condition: Condition) -> Event:
        """The sample, from the state `x` of one event at time `t`."""


class Tweedie(AbstractLastStep):
    r"""Ends at the denoised data $\mathbb{E}[x_1 | x_t]$ (Efron 2011, eq. 1.4)."""

    def check(self, model: AbstractContinuousModel, t: Scalar) -> None:
        check_data_prediction(model, "Tweedie", t, t)

    def __call__(self, model: AbstractContinuousModel, t: Scalar, x: Event, condition: Condition) -> Event:
        return model.predict(t, x, condition).data


class MeanStep(AbstractLastStep):
    """An Euler step of an SDE's drift, without its noise."""

    dynamics: AbstractScoreSDE
    size: float | None = None
    """The step size. Default: None, the step to `t = 1`."""

    def __check_init__(self) -> None:
        check_positive("size", self.size)

    def check(self, model: AbstractContinuousModel, t: Scalar) -> None:
        _check_size(self.size, t)

    def __call__(self, model: AbstractContinuousModel, t: Scalar, x: Event, condition: Condition) -> Event:
        return x + _size(self.size, t, x) * self.dynamics.drift(t, x, (model, condition))


class EulerStep(AbstractLastStep):
    """An Euler step of the probability flow."""

    size: float | None = None
    """The step size. Default: None, the step to `t = 1`."""

    def __check_init__(self) -> None:
        check_positive("size", self.size)

    def check(self, model: AbstractContinuousModel, t: Scalar) -> None:
        _check_size(self.size, t)

    def __call__(self, model: AbstractContinuousModel, t: Scalar, x: Event, condition: Condition) -> Event:
        return x + _size(self.size, t, x) * model.predict(t, x, condition).velocity


def _size(size: float | None, t: Scalar, x: Event) -> Array:
    return (1 - jnp.asarray(t)).astype(x.dtype) if size is None else jnp.asarray(size, x.dtype)


def _check_size(size: float | None, t: Scalar) -> None:
    if size is not None and t + size > 1 + 1e-6:
        raise ValueError(f"A last step of {size} from t={t} goes beyond the data at t=1.")
