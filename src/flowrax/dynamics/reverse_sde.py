r"""$\mathrm{d}X = (v + a(t)\, s)\, \mathrm{d}t + \sqrt{2 b(t)}\, \mathrm{d}W$: the velocity, the score and noise.

With a prior of covariance $C$ the score is $C s$ and the noise $C^{1/2} \mathrm{d}W$. If $a = b = w$ for any $w \ge 0$,
as in [`ReverseSDE`][], the process has the same Fokker-Planck equation as the probability flow, hence the same
marginals (Albergo et al. 2023, theorem 2.8); any other choice changes the marginals.
"""

import abc
from collections.abc import Callable
from typing import ClassVar

import diffrax as dfx
import equinox as eqx
import jax.numpy as jnp
import lineax as lx

from .._base.checks import check_interval
from .._base.typing import Array, Condition, Event, PyTree, Scalar
from ..model import scaled_score, shaped
from ..model.base import TIME_MARGIN, AbstractContinuousModel
from ..model.prediction import AffinePrediction
from ..prior import AbstractPrior
from ..schedule import AbstractSchedule
from ..stepper import SemilinearTerm
from ..stepper.fitting import check_noise_solver
from .base import AbstractPathDynamics, NoiseMaker
from .diffusion import SBDM, AbstractDiffusion, as_diffusion


class AbstractScoreSDE(AbstractPathDynamics):
    """An SDE of this form. Its noise is additive; its interval is where the score and the coefficients are finite."""

    t_min: eqx.AbstractVar[float | None]
    t_max: eqx.AbstractVar[float | None]
    calculus: ClassVar[type | None] = None
    keeps_density: ClassVar[bool] = False
    has_noise: ClassVar[bool] = True
    default_tolerance: ClassVar[float] = 1e-2

    linear_scale: eqx.AbstractVar[float | Array | None]
    """The $c$ in `a = b = c g^2 / 2`, the form that exponential solvers integrate; None for any other form."""
    score_until: eqx.AbstractVar[float]
    """The time from which `a` and `b` are zero, so that the score may be infinite there; 1 if there is none."""

    def __check_init__(self) -> None:
        check_interval(0.0 if self.t_min is None else self.t_min, 1.0 if self.t_max is None else self.t_max)

    @abc.abstractmethod
    def coefficients(self, schedule: AbstractSchedule, t: Scalar) -> tuple[Array, Array]:
        """`a` and `b` at `t`, scalars in units of the data squared over time."""

    @abc.abstractmethod
    def is_singular_at_start(self, schedule: AbstractSchedule) -> bool:
        """Whether `a` or `b` is infinite at `t = 0`."""

    def drift_of(self, velocity: Event, score: Event, schedule: AbstractSchedule, t: Scalar) -> Event:
        """$v + a s$ at `t` from the velocity and the score; with a prior of covariance $C$, `score` is $C s$."""
        scale = self.coefficients(schedule, t)[0].astype(velocity.dtype)
        return velocity + scale * jnp.where(scale == 0, 0, score)

    def noise_scale(self, schedule: AbstractSchedule, t: Scalar) -> Array:
        r"""$\sqrt{2 b}$ at `t`, a scalar."""
        return jnp.sqrt(2 * self.coefficients(schedule, t)[1])

    def drift(self, t: Scalar, x: Event, args: tuple[AbstractContinuousModel, Condition]) -> Event:
        """$v + a C s$ at `(t, x)`; `args` is `(model, condition)`."""
        model, condition = args
        prediction = scored = model.predict(t, x, condition)
        if self.score_until < 1:
            # An unused score must still be finite, or its gradient is NaN.
            t = jnp.asarray(t)
            safe = jnp.minimum(t, jnp.asarray(model.score_interval[1], t.dtype))
            if isinstance(prediction, AffinePrediction):
                scales = model.schedule.scales(safe, x.dtype)
                scored = eqx.tree_at(lambda converted: converted.scales, prediction, scales)
            else:
                scored = model.predict(safe, x, condition)
        return self.drift_of(prediction.velocity, scaled_score(model, scored.score), model.schedule, t)

    def diffusion(
        self, t: Scalar, x: Event, args: tuple[AbstractContinuousModel, Condition]
    ) -> lx.AbstractLinearOperator:
        r"""$\sqrt{2 b}$ times the identity; the driving path already has the prior's covariance."""
        scale = self.noise_scale(args[0].schedule, t)
        return lx.DiagonalLinearOperator(jnp.broadcast_to(scale, x.shape).astype(x.dtype))

    def interval(self, model: AbstractContinuousModel) -> tuple[float, float]:
        if self.linear_scale is not None and not model.is_affine:
            raise ValueError(
                "SBDM, the default of ReverseSDE, is defined only for paths from noise to data; for a Bridge pass "
                "another coefficient, such as ReverseSDE(dynamics.Constant(0.5))."
            )
        low, high = model.score_interval
        low, high = max(low, model.t_min), model.t_max if self.score_until <= high else min(high, model.t_max)
        if self.is_singular_at_start(model.schedule):
            low = max(low, TIME_MARGIN)
        if self.t_min is not None:
            low = max(low, self.t_min)
        if self.t_max is not None:
            high = min(high, self.t_max)
        check_interval(low, high)
        return low, high

    def source(self, model: AbstractContinuousModel) -> AbstractPrior:
        return model.source_at(self.interval(model)[0])

    def terms(
        self, model: AbstractContinuousModel, condition: Condition, make_noise: NoiseMaker
    ) -> tuple[dfx.MultiTerm, PyTree]:
        drift = SemilinearTerm(self.drift, self.linear_scale)
        noise = dfx.ControlTerm(self.diffusion, shaped(model, make_noise(model.shape, 0)))
        return dfx.MultiTerm(drift, noise), (model, condition)

    def stepper(self, solver: dfx.AbstractSolver | None) -> dfx.AbstractSolver:
        return dfx.ShARK() if solver is None else check_noise_solver(type(self).__name__, solver)


class ReverseSDE(AbstractScoreSDE):
    """The reverse-time SDE with a free choice of the diffusion coefficient.

    The noise is additive, so the Ito and Stratonovich interpretations agree and every diffrax SDE solver is valid.
    The interval is narrowed to where the score and `w` are finite.

    **Reference:** [@albergo2023stochastic].
    """

    coefficient: AbstractDiffusion
    t_min: float | None = eqx.field(static=True)
    t_max: float | None = eqx.field(static=True)
    score_until: ClassVar[float] = 1.0

    def __init__(
        self,
        diffusion: AbstractDiffusion | Callable[[Scalar], Array] | None = None,
        *,
        t_min: float | None = None,
        t_max: float | None = None,
    ):
        """**Arguments:**

        - `diffusion`: the coefficient `w`, or a function of the time that is finite on [0, 1], which is wrapped in
            [`Custom`][]. Default: Anderson's `SBDM()`.
        - `t_min`, `t_max`: a narrower interval. Default: as wide as the model and `w` allow. Raises `ValueError` where
            they lie outside [0, 1].
        """
        self.coefficient = as_diffusion(SBDM() if diffusion is None else diffusion)
        self.t_min, self.t_max = t_min, t_max

    def coefficients(self, schedule: AbstractSchedule, t: Scalar) -> tuple[Array, Array]:
        w = self.coefficient(schedule, t)
        return w, w

    def is_singular_at_start(self, schedule: AbstractSchedule) -> bool:
        return self.coefficient.is_singular_at_start(schedule)

    @property
    def linear_scale(self) -> float | Array | None:
        return self.coefficient.scale if isinstance(self.coefficient, SBDM) else None
