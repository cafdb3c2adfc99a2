r"""Langevin dynamics at a fixed time $t$ of the path, in a separate time $\tau$.

Overdamped: $\mathrm{d}X = s(t, X)\, \mathrm{d}\tau + \sqrt2\, \mathrm{d}W$. Underdamped, with friction $\gamma$:
$\mathrm{d}X = V \mathrm{d}\tau$, $\mathrm{d}V = (s(t, X) - \gamma V)\, \mathrm{d}\tau + \sqrt{2 \gamma}\, \mathrm{d}W$.
Both leave the marginal $p_t$ invariant. With a prior of covariance $C$ the overdamped dynamics runs in the coordinates
$C^{-1/2} X$: $C s$ replaces $s$, and $C^{1/2} W$ replaces $W$.
"""

from collections.abc import Callable
from typing import ClassVar

import diffrax as dfx
import equinox as eqx
import jax.numpy as jnp
import lineax as lx

from .._base import random
from .._base.checks import check_positive, check_time
from .._base.typing import Array, Condition, Event, KeyArray, PyTree, Scalar
from ..model import gaussian_prior, scaled_score, shaped
from ..model.base import AbstractContinuousModel
from ..prior import AbstractPrior
from ..stepper.fitting import check_noise_solver
from .base import AbstractDynamics, NoiseMaker


def score_at(time: float, x: Event, args: tuple[AbstractContinuousModel, Condition]) -> Event:
    """The model's score at a fixed time, times the prior's covariance; `args` is `(model, condition)`."""
    model, condition = args
    return scaled_score(model, model.predict(jnp.asarray(time, x.dtype), x, condition).score)


def _check_score(model: AbstractContinuousModel, time: float) -> None:
    low, high = model.score_interval
    if not low <= time <= high:
        raise ValueError(f"Langevin needs a score at t={time}, but the model has one on [{low}, {high}].")


def _check_duration(duration: float) -> float:
    if not duration > 0:
        raise ValueError(f"duration must be positive; got {duration}.")
    return float(duration)


class Langevin(AbstractDynamics):
    """Overdamped Langevin dynamics.

    It starts from `model.source_at(time)`, or from the `x0` passed to `sample`.
    """

    time: float = eqx.field(static=True)
    duration: float = eqx.field(static=True)
    calculus: ClassVar[type | None] = None
    keeps_density: ClassVar[bool] = False
    has_noise: ClassVar[bool] = True
    default_tolerance: ClassVar[float] = 1e-2

    def __init__(self, time: float, duration: float):
        """**Arguments:**

        - `time`: the fixed time of the path, in [0, 1].
        - `duration`: the length of the run in the time tau, positive, in units of the data squared.

        Raises `ValueError` where `time` or `duration` is out of range.
        """
        self.time, self.duration = check_time("time", time), _check_duration(duration)

    def __check_init__(self) -> None:
        check_positive("duration", self.duration)

    def drift(self, t: Scalar, x: Event, args: tuple[AbstractContinuousModel, Condition]) -> Event:
        """The score at the fixed time; `args` is `(model, condition)`."""
        return score_at(self.time, x, args)

    def diffusion(
        self, t: Scalar, x: Event, args: tuple[AbstractContinuousModel, Condition]
    ) -> lx.AbstractLinearOperator:
        r"""$\sqrt2$ times the identity."""
        return lx.DiagonalLinearOperator(jnp.full_like(x, 2**0.5))

    def interval(self, model: AbstractContinuousModel) -> tuple[float, float]:
        _check_score(model, self.time)
        return 0.0, self.duration

    def path_time(self, model: AbstractContinuousModel, t: Scalar) -> Scalar:
        return self.time

    def source(self, model: AbstractContinuousModel) -> AbstractPrior:
        return model.source_at(self.time)

    def initial(self, x: Event, key: KeyArray) -> Event:
        return x

    def terms(
        self, model: AbstractContinuousModel, condition: Condition, make_noise: NoiseMaker
    ) -> tuple[dfx.MultiTerm, PyTree]:
        path = shaped(model, make_noise(model.shape, 0))
        return dfx.MultiTerm(dfx.ODETerm(self.drift), dfx.ControlTerm(self.diffusion, path)), (model, condition)

    def readout(self, state: PyTree[Array]) -> Event:
        return state

    def stepper(self, solver: dfx.AbstractSolver | None) -> dfx.AbstractSolver:
        return dfx.ShARK() if solver is None else check_noise_solver("Langevin", solver)


class _Bound(eqx.Module):
    """The gradient with its arguments bound: diffrax traces `args`, and a model has leaves that are not arrays."""

    gradient: Callable[[Event, PyTree], Event]
    args: PyTree

    def __call__(self, x: Event, args: PyTree) -> Event:
        return self.gradient(x, self.args)


class UnderdampedLangevin(AbstractDynamics):
    """Langevin dynamics with momentum, for diffrax's solvers ALIGN, SHOULD and QUICSORT.

    It needs a standard normal prior. It starts from `model.source_at(time)`, or from the `x0` passed to `sample`, with
    standard normal velocities.
    """

    time: float = eqx.field(static=True)
    duration: float = eqx.field(static=True)
    friction: float = eqx.field(static=True)
    calculus: ClassVar[type | None] = None
    keeps_density: ClassVar[bool] = False
    has_noise: ClassVar[bool] = True
    default_tolerance: ClassVar[float] = 1e-2

    def __init__(self, time: float, duration: float, friction: float = 2.0):
        r"""**Arguments:**

        - `time`: the fixed time of the path, in [0, 1].
        - `duration`: the length of the run in the time tau, positive, in units of the data.
        - `friction`: $\gamma$, positive. Default: 2.

        Raises `ValueError` where an argument is out of range.
        """
        self.time, self.duration = check_time("time", time), _check_duration(duration)
        if not friction > 0:
            raise ValueError(f"friction must be positive; got {friction}.")
        self.friction = float(friction)

    def __check_init__(self) -> None:
        check_positive("duration", self.duration)
        check_positive("friction", self.friction)

    def negative_score(self, x: Event, args: tuple[AbstractContinuousModel, Condition]) -> Event:
        r"""The gradient of the potential $-\log p_t$; `args` is `(model, condition)`."""
        return -score_at(self.time, x, args)

    def interval(self, model: AbstractContinuousModel) -> tuple[float, float]:
        _check_score(model, self.time)
        if not gaussian_prior(model).is_standard:
            raise ValueError("UnderdampedLangevin supports the standard normal prior only; use Langevin.")
        return 0.0, self.duration

    def path_time(self, model: AbstractContinuousModel, t: Scalar) -> Scalar:
        return self.time

    def source(self, model: AbstractContinuousModel) -> AbstractPrior:
        return model.source_at(self.time)

    def initial(self, x: Event, key: KeyArray) -> tuple[Event, Event]:
        return x, random.normal(key, x.shape, x.dtype)

    def terms(
        self, model: AbstractContinuousModel, condition: Condition, make_noise: NoiseMaker
    ) -> tuple[dfx.MultiTerm, PyTree]:
        friction, unit = jnp.asarray(self.friction, model.dtype), jnp.asarray(1.0, model.dtype)
        gradient = _Bound(self.negative_score, (model, condition))
        drift = dfx.UnderdampedLangevinDriftTerm(friction, unit, gradient)
        noise = dfx.UnderdampedLangevinDiffusionTerm(friction, unit, make_noise(model.shape, 0))
        return dfx.MultiTerm(drift, noise), None

    def readout(self, state: PyTree[Array]) -> Event:
        return state[0]

    def stepper(self, solver: dfx.AbstractSolver | None) -> dfx.AbstractSolver:
        return dfx.ALIGN() if solver is None else check_noise_solver("UnderdampedLangevin", solver)
