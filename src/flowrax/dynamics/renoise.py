r"""Stochastic sampling by renoising: noise is added as in the forward process, and the flow removes it again.

From time $t$ to an earlier, noisier $r$ the forward process of an interpolant with independent Gaussian noise is

$$x_r = \frac{\alpha_r}{\alpha_t}\, x_t + \sigma_r \sqrt{1 - e^{-2 (\lambda_t - \lambda_r)}}\; \xi.$$

With noise $\mathcal{N}(m, C)$ this holds for $x - \sigma m$, with $\xi \sim \mathcal{N}(0, C)$.
"""

import abc
from typing import ClassVar

import diffrax as dfx
import jax.numpy as jnp

from .._base.typing import Array, Condition, Event, PyTree
from ..model import gaussian_prior
from ..model.base import AbstractContinuousModel
from ..prior import AbstractPrior
from ..stepper import AbstractExponentialSolver, EDMHeun
from ..stepper.exponential.base import scaled, shift
from .base import AbstractPathDynamics, NoiseMaker, noise_term
from .flow import ProbabilityFlow


def renoise(model: AbstractContinuousModel, t: Array, earlier: Array, x: Event, xi: Event) -> Event:
    """A draw of the forward process from `(t, x)` to an earlier time; `xi` is a draw with the prior's covariance."""
    schedule = model.schedule
    keep = schedule.alpha(earlier) / schedule.alpha(t)
    std = schedule.sigma(earlier) * jnp.sqrt(-jnp.expm1(schedule.log_snr(earlier) - schedule.log_snr(t)))
    moved = scaled(keep, x) + scaled(std, xi)
    return moved + shift(gaussian_prior(model), schedule.sigma(earlier) - keep * schedule.sigma(t))


class AbstractRenoised(AbstractPathDynamics):
    """The probability flow with noise added during the solve; it needs an exponential solver."""

    calculus: ClassVar[type | None] = None
    keeps_density: ClassVar[bool] = False
    has_noise: ClassVar[bool] = True
    default_tolerance: ClassVar[float] = 1e-2

    @abc.abstractmethod
    def check(self, model: AbstractContinuousModel) -> None:
        """Raises `ValueError` for a model that this dynamics does not support."""

    def interval(self, model: AbstractContinuousModel) -> tuple[float, float]:
        self.check(model)
        # A model without a score has noise that depends on the data, so this forward process is not the model's.
        _ = model.score_interval
        return model.t_min, model.t_max

    def source(self, model: AbstractContinuousModel) -> AbstractPrior:
        return model.source

    @abc.abstractmethod
    def num_draws(self) -> int:
        """The number of normal draws of the shape of an event in one step."""

    def terms(
        self, model: AbstractContinuousModel, condition: Condition, make_noise: NoiseMaker
    ) -> tuple[dfx.MultiTerm, PyTree]:
        flow, args = ProbabilityFlow().terms(model, condition, make_noise)
        return dfx.MultiTerm(flow, noise_term(model, make_noise((self.num_draws(), *model.shape), 0))), args


def inner_solver(solver: dfx.AbstractSolver | None, name: str) -> AbstractExponentialSolver:
    """The solver of the flow: `EDMHeun()` for None. Raises `ValueError` for a solver that is not exponential."""
    if solver is None:
        return EDMHeun()
    if not isinstance(solver, AbstractExponentialSolver):
        raise ValueError(f"{name} needs an exponential solver such as EDMHeun(); got {type(solver).__name__}.")
    return solver
