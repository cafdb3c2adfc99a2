r"""What may be done with the end state of a sampler whose interval stops before all noise is gone.

From the end $t$ a step of size $h$: with $h = 1 - t$ it goes to the data. The steps before it end at $t$ because the
dynamics does: `ReverseSDE(t_max=0.96)`.
"""

import abc

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp

from ._typing import Array, Condition, Event, Scalar
from .abstract import AbstractContinuousModel, AbstractDynamics
from .dynamics import AbstractScoreSDE, path_time
from .model import data_interval
from .stepper import AbstractExponentialSolver, EDMHeun


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


def check_end(
    model: AbstractContinuousModel,
    dynamics: AbstractDynamics,
    solver: dfx.AbstractSolver,
    last_step: AbstractLastStep | None,
) -> None:
    """Raises `ValueError` where a solver or last step asks for an infinite data prediction, or passes `t = 1`."""
    start, end = dynamics.interval(model)
    low, high = data_interval(model)
    if start < low and _holds(solver, AbstractExponentialSolver):
        raise ValueError(_no_data(model, type(solver).__name__, start, f"t_min={low}"))
    if end > high and _holds(solver, EDMHeun):
        raise ValueError(_no_data(model, type(solver).__name__, end, f"t_max={high}"))
    last = path_time(dynamics, end)
    if isinstance(last_step, EulerStep | MeanStep) and last_step.size is not None and last + last_step.size > 1 + 1e-6:
        raise ValueError(f"A last step of {last_step.size} from t={last} goes beyond the data at t=1.")
    if isinstance(last_step, Tweedie) and last > high:
        raise ValueError(_no_data(model, "Tweedie", last, f"t_max={high}"))


def _holds(solver: dfx.AbstractSolver, kind: type) -> bool:
    return any(isinstance(leaf, kind) for leaf in jax.tree.leaves(solver, is_leaf=lambda leaf: isinstance(leaf, kind)))


def _no_data(model: AbstractContinuousModel, who: str, t: Scalar, mend: str) -> str:
    return (
        f"{who} needs the data at t={t}, where a velocity on {type(model.schedule).__name__} does not give it; "
        f"give the model {mend}, or another target."
    )
