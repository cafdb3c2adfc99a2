r"""Flow matching, one step at a time: Euler steps of the flow, Euler-Maruyama steps with score and noise."""

from collections.abc import Callable

import equinox as eqx

from ..._base.arguments import Checked
from ..._base.typing import Array, ArrayLike, Event, KeyArray, Scalar
from ...model.base import AbstractPrediction
from ...model.prediction import AffinePrediction
from ...model.target import AbstractTarget, Velocity
from ...schedule import AbstractSchedule, Linear
from ...stepper.exponential.kernel import converted, diffuse, move, tidy
from ..diffusion import AbstractDiffusion
from ..tempered import StochasticFlow


class CFM(eqx.Module, metaclass=Checked):
    """The steps of flow matching, applied to one event; [`VDM`][] lists common arguments.

    `sample` takes the same steps on a grid with `solver=diffrax.Euler()` and the dynamics [`ProbabilityFlow`][] or
    [`StochasticFlow`][].

    **Reference:** [@lipman2023flow].
    """

    schedule: AbstractSchedule
    target: AbstractTarget

    def __init__(self, schedule: AbstractSchedule | None = None, target: AbstractTarget | None = None):
        """**Arguments:**

        - `schedule`: the schedule of the interpolant. Default: [`Linear`][].
        - `target`: the quantity that the outputs passed to [`predict`][] represent. Default: `Velocity()`.
        """
        self.schedule = Linear() if schedule is None else schedule
        self.target = Velocity() if target is None else target

    def predict(self, output: Event, t: Scalar, x: Event) -> AffinePrediction:
        """Data, noise, velocity and score from a network's output at `(t, x)`.

        The score is valid only for a network trained with an independent coupling.
        """
        return converted(output, x, self.schedule.scales(t, x.dtype), self.target)

    def step(
        self,
        prediction: AbstractPrediction,
        t: Scalar,
        x: Event,
        dt: Scalar,
        *,
        mask: ArrayLike | None = None,
        centre: bool = False,
    ) -> Event:
        """An Euler step of the flow."""
        return tidy(move(x, prediction.velocity, dt), mask, centre)

    def step_score_stochastic(
        self,
        prediction: AbstractPrediction,
        t: Scalar,
        x: Event,
        dt: Scalar,
        *,
        diffusion: AbstractDiffusion | Callable[[Scalar], Array] | None = None,
        score_temperature: float | Array = 1.0,
        noise_temperature: float | Array = 1.0,
        t_ode: float = 0.99,
        key: KeyArray | None = None,
        noise: Event | None = None,
        mask: ArrayLike | None = None,
        centre: bool = False,
    ) -> Event:
        """An Euler-Maruyama step of [`StochasticFlow`][]. Default of `diffusion`: `Cotangent()`."""
        sde = StochasticFlow(
            diffusion,
            score_temperature=score_temperature,
            noise_temperature=noise_temperature,
            t_ode=t_ode,
        )
        mean = move(x, sde.drift_of(prediction.velocity, prediction.score, self.schedule, t), dt)
        return tidy(diffuse(mean, sde.noise_scale(self.schedule, t), dt, key, noise), mask, centre)
