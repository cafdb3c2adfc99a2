r"""Sampling at a temperature $T$: the score is scaled, so the marginals are no longer the interpolant's.

For Gaussian data of unit variance, the score of the tempered distribution is the score of the marginal times

$$\lambda_T(t) = \frac{\alpha^2 + \sigma^2}{T \alpha^2 + \sigma^2},$$

the scale of Ingraham et al. 2023 (supplement B.3), written for any schedule. It is exact for this distribution only;
for any other data distribution $p$ the samples lie between $p$ and $p^{1 / T}$.
"""

from collections.abc import Callable
from typing import ClassVar

import diffrax as dfx
import equinox as eqx
import jax.numpy as jnp

from .._base.checks import check_not_negative, check_positive, check_time
from .._base.typing import Array, Condition, Event, PyTree, Scalar
from ..model import scaled_score
from ..model.base import AbstractContinuousModel
from ..prior import AbstractPrior
from ..schedule import AbstractSchedule
from ..stepper.fitting import check_flow_solver
from .base import AbstractPathDynamics, NoiseMaker
from .diffusion import AbstractDiffusion, Cotangent, as_diffusion
from .reverse_sde import AbstractScoreSDE, ReverseSDE


def _check_temperature(temperature: float | Array) -> float | Array:
    if isinstance(temperature, int | float) and not temperature > 0:
        raise ValueError(f"temperature must be positive; got {temperature}.")
    return temperature


def score_scale(schedule: AbstractSchedule, t: Scalar, temperature: float | Array) -> Array:
    r"""The score scale $\lambda_T(t)$, which is 1 at $T = 1$.

    **Arguments:**

    - `schedule`: the model's schedule.
    - `t`: the time.
    - `temperature`: $T$.

    **Returns:** a scalar.
    """
    data, noise = schedule.alpha(t) ** 2, schedule.sigma(t) ** 2
    return (data + noise) / (temperature * data + noise)


class TemperedFlow(AbstractPathDynamics):
    r"""The probability flow at a temperature: $\mathrm{d}x / \mathrm{d}t = v + (\lambda_T - 1) \tfrac{g^2}{2} s$.

    For Gaussian data of unit variance the samples are Gaussian with variance $T$. It provides no log-density. At
    temperature 1 use [`ProbabilityFlow`][].

    **Reference:** [@ingraham2023illuminating].
    """

    temperature: float | Array
    calculus: ClassVar[type | None] = None
    keeps_density: ClassVar[bool] = False
    has_noise: ClassVar[bool] = False
    default_tolerance: ClassVar[float] = 1e-5

    def __init__(self, temperature: float | Array):
        """**Arguments:**

        - `temperature`: T, positive; below 1 samples concentrate at the modes. Raises `ValueError` otherwise.
        """
        self.temperature = _check_temperature(temperature)

    def __check_init__(self) -> None:
        check_positive("temperature", self.temperature)

    def drift_of(self, velocity: Event, score: Event, schedule: AbstractSchedule, t: Scalar) -> Event:
        """The drift at `t` from the velocity and the score; with a prior of covariance $C$, `score` is $C s$."""
        push = (score_scale(schedule, t, self.temperature) - 1) * schedule.diffusion_squared(t) / 2
        return velocity + push.astype(velocity.dtype) * score

    def drift(self, t: Scalar, x: Event, args: tuple[AbstractContinuousModel, Condition]) -> Event:
        """The drift at `(t, x)`; `args` is `(model, condition)`."""
        model, condition = args
        prediction = model.predict(t, x, condition)
        return self.drift_of(prediction.velocity, scaled_score(model, prediction.score), model.schedule, t)

    def interval(self, model: AbstractContinuousModel) -> tuple[float, float]:
        return ReverseSDE().interval(model)

    def source(self, model: AbstractContinuousModel) -> AbstractPrior:
        return model.source_at(self.interval(model)[0])

    def terms(
        self, model: AbstractContinuousModel, condition: Condition, make_noise: NoiseMaker
    ) -> tuple[dfx.ODETerm, PyTree]:
        return dfx.ODETerm(self.drift), (model, condition)

    def stepper(self, solver: dfx.AbstractSolver | None) -> dfx.AbstractSolver:
        return dfx.Dopri5() if solver is None else check_flow_solver(type(self).__name__, solver)


class HybridSDE(AbstractScoreSDE):
    r"""The reverse SDE with Langevin equilibration at a rate $\psi$ and a temperature $T$ (Ingraham et al. 2023, B.3).

    $$\mathrm{d}X = \Big(v + \tfrac{g^2}{2} \big(2 \lambda_T - 1 + \tfrac{\psi}{T}\big) s\Big) \mathrm{d}t +
    g \sqrt{1 + \psi}\, \mathrm{d}W$$

    At $T = 1$ it is `ReverseSDE(SBDM(1 + psi))` and keeps the marginals. A larger $\psi$ brings the samples closer to
    $p^{1 / T}$ but requires smaller steps.

    **Reference:** [@ingraham2023illuminating].
    """

    equilibrium_rate: float | Array
    temperature: float | Array
    t_min: float | None = eqx.field(static=True)
    t_max: float | None = eqx.field(static=True)
    score_until: ClassVar[float] = 1.0

    def __init__(
        self,
        equilibrium_rate: float | Array = 0.0,
        *,
        temperature: float | Array = 1.0,
        t_min: float | None = None,
        t_max: float | None = None,
    ):
        r"""**Arguments:**

        - `equilibrium_rate`: $\psi \ge 0$, the amount of Langevin dynamics per unit of noise removed. Default: 0.
        - `temperature`: $T$, positive. Default: 1.
        - `t_min`, `t_max`: a narrower interval. Default: as wide as the model and the coefficients allow.

        Raises `ValueError` where an argument is out of range.
        """
        if isinstance(equilibrium_rate, int | float) and not equilibrium_rate >= 0:
            raise ValueError(f"equilibrium_rate must not be negative; got {equilibrium_rate}.")
        self.equilibrium_rate, self.temperature = equilibrium_rate, _check_temperature(temperature)
        self.t_min, self.t_max = t_min, t_max

    def __check_init__(self) -> None:
        check_not_negative("equilibrium_rate", self.equilibrium_rate)
        check_positive("temperature", self.temperature)

    def coefficients(self, schedule: AbstractSchedule, t: Scalar) -> tuple[Array, Array]:
        half = schedule.diffusion_squared(t) / 2
        rate = self.equilibrium_rate
        pull = 2 * score_scale(schedule, t, self.temperature) - 1 + rate / self.temperature
        return half * pull, half * (1 + rate)

    def is_singular_at_start(self, schedule: AbstractSchedule) -> bool:
        return 0.0 in schedule.singularities.forward_sde

    @property
    def linear_scale(self) -> float | Array | None:
        warm = isinstance(self.temperature, int | float) and self.temperature == 1
        return 1 + self.equilibrium_rate if warm else None


class StochasticFlow(AbstractScoreSDE):
    r"""The flow with score and noise, each at its own temperature (Geffner et al. 2025, eq. 3).

    $$\mathrm{d}X = (v + w\, T_s\, s)\, \mathrm{d}t + \sqrt{2 w\, T_n}\, \mathrm{d}W, \qquad w(t) = 0 \text{ for } t
    \ge t_{\text{ode}}$$

    With both temperatures 1 it is [`ReverseSDE`][] and keeps the marginals. With $T_n < T_s$ the samples concentrate at
    the modes.

    **Reference:** [@geffner2025proteina].
    """

    coefficient: AbstractDiffusion
    score_temperature: float | Array
    noise_temperature: float | Array
    t_ode: float = eqx.field(static=True)
    t_min: float | None = eqx.field(static=True)
    t_max: float | None = eqx.field(static=True)
    linear_scale: ClassVar[None] = None

    def __init__(
        self,
        diffusion: AbstractDiffusion | Callable[[Scalar], Array] | None = None,
        *,
        score_temperature: float | Array = 1.0,
        noise_temperature: float | Array = 1.0,
        t_ode: float = 1.0,
        t_min: float | None = None,
        t_max: float | None = None,
    ):
        r"""**Arguments:**

        - `diffusion`: the coefficient `w`, or a function of the time. Default: [`Cotangent`][].
        - `score_temperature`: $T_s \ge 0$, the factor on the score term of the drift. Default: 1.
        - `noise_temperature`: $T_n \ge 0$, the factor on the variance of the noise. Default: 1.
        - `t_ode`: the time from which the dynamics is the probability flow, so that it can run to $t = 1$ where the
            score is infinite there. Default: 1, that is, never.
        - `t_min`, `t_max`: a narrower interval. Default: as wide as the model and `w` allow.

        Raises `ValueError` where an argument is out of range.
        """
        check_not_negative("score_temperature", score_temperature)
        check_not_negative("noise_temperature", noise_temperature)
        self.coefficient = as_diffusion(Cotangent() if diffusion is None else diffusion)
        self.score_temperature, self.noise_temperature = score_temperature, noise_temperature
        self.t_ode, self.t_min, self.t_max = check_time("t_ode", t_ode), t_min, t_max

    def coefficients(self, schedule: AbstractSchedule, t: Scalar) -> tuple[Array, Array]:
        w = jnp.where(jnp.asarray(t) < self.t_ode, self.coefficient(schedule, t), 0)
        return w * self.score_temperature, w * self.noise_temperature

    def is_singular_at_start(self, schedule: AbstractSchedule) -> bool:
        return self.coefficient.is_singular_at_start(schedule)

    @property
    def score_until(self) -> float:
        return self.t_ode
