r"""Variational diffusion models: a chain in continuous time, under any schedule (Kingma et al. 2021).

A step from $s$ to $s - \mathrm{d}s$ in the time $s = 1 - t$, counted from the data, is here a step from $t = 1 - s$ to
$t + \mathrm{d}t$ with $\mathrm{d}t = \mathrm{d}s$. `dt` is positive in both.
"""

import equinox as eqx
import jax.numpy as jnp

from ..._base.arguments import Checked
from ..._base.checks import is_traced
from ..._base.typing import Array, ArrayLike, Event, KeyArray, Scalar
from ...model.base import AbstractPrediction
from ...model.prediction import AffinePrediction
from ...model.target import AbstractTarget, Data
from ...schedule import AbstractSchedule
from ...stepper.exponential.kernel import Kernel, add_noise, check_positive_dt, converted, diffuse, kernel, move, tidy
from ..tempered import HybridSDE, TemperedFlow


class VDM(eqx.Module, metaclass=Checked):
    r"""The steps of a diffusion in continuous time, applied to one event.

    Each step takes a prediction at `(t, x)`: `predict(output, t, x)` from a network's output, or
    `model.predict(t, x, condition)` from a model. On a grid, `sample` takes the same steps:

    | step | `frx.sample` with |
    |---|---|
    | [`step`][] | `dynamics=ReverseSDE(), solver=DDIM()` |
    | [`step_ddim`][] | `dynamics=ReverseSDE(SBDM(eta**2)), solver=DDIM()`; at 0 `solver=DDIM()` alone |
    | [`step_hybrid_sde`][] | `dynamics=HybridSDE(psi, temperature=T), solver=diffrax.Euler()` |
    | [`step_ode`][] | `dynamics=TemperedFlow(T), solver=diffrax.Euler()` |

    The noise is standard normal and independent of the data; `sample` supports any prior.

    Common arguments: a stochastic step takes either `key` or `noise`, standard normal numbers of the shape of `x` (a
    step to the data draws none and, outside `jit`, needs neither). `mask`, `(..., nodes)` for events
    `(..., nodes, features)`, is true or one for the nodes that count; the others are zero after the step. `centre`
    removes the mean over the nodes that count. `dt` is the length of the step, positive.

    **Reference:** [@kingma2021variational].
    """

    schedule: AbstractSchedule
    target: AbstractTarget

    def __init__(self, schedule: AbstractSchedule, target: AbstractTarget | None = None):
        """**Arguments:**

        - `schedule`: the schedule of the interpolant.
        - `target`: the quantity that the outputs passed to [`predict`][] represent. Default: `Data()`.
        """
        self.schedule, self.target = schedule, Data() if target is None else target

    def predict(self, output: Event, t: Scalar, x: Event) -> AffinePrediction:
        """Data, noise, velocity and score from a network's output at `(t, x)`."""
        return converted(output, x, self.schedule.scales(t, x.dtype), self.target)

    def _kernel(self, t: Scalar, dt: Scalar, share: float | Array | None) -> tuple[Kernel, Array, Array]:
        check_positive_dt(dt)
        start = jnp.asarray(t)
        end = start + jnp.asarray(dt, start.dtype)
        if not is_traced(end) and not 0 <= float(start) <= float(end) <= 1 + 1e-6:
            raise ValueError(f"A step from t={float(start):g} to {float(end):g} leaves [0, 1]; t=1 is the data.")
        # Steps whose lengths add up to one may exceed it by rounding.
        end = jnp.minimum(end, 1)
        schedule = self.schedule
        first = schedule.alpha(start), schedule.sigma(start)
        gap = (schedule.log_snr(end) - schedule.log_snr(start)) / 2
        return kernel(first, (schedule.alpha(end), schedule.sigma(end)), gap, share), *first

    def step(
        self,
        prediction: AbstractPrediction,
        t: Scalar,
        x: Event,
        dt: Scalar,
        *,
        key: KeyArray | None = None,
        noise: Event | None = None,
        temperature: float | Array = 1.0,
        mask: ArrayLike | None = None,
        centre: bool = False,
    ) -> Event:
        """The ancestral step: a draw from $q(x_{t + dt} | x_t, x_1)$ at the data prediction.

        `temperature` scales its noise.
        """
        coefficients, _, _ = self._kernel(t, dt, 1.0)
        mean = coefficients.mean(x, prediction.data)
        return tidy(add_noise(mean, coefficients.std, key, noise, temperature), mask, centre)

    def step_noise(
        self,
        prediction: AbstractPrediction,
        t: Scalar,
        x: Event,
        dt: Scalar,
        *,
        key: KeyArray | None = None,
        noise: Event | None = None,
        temperature: float | Array = 1.0,
        mask: ArrayLike | None = None,
        centre: bool = False,
    ) -> Event:
        """The ancestral step in terms of the noise prediction; equals [`step`][]; singular where alpha(t) is 0."""
        coefficients, alpha, sigma = self._kernel(t, dt, 1.0)
        mean = coefficients.mean_of_noise(x, prediction.noise, alpha, sigma)
        return tidy(add_noise(mean, coefficients.std, key, noise, temperature), mask, centre)

    def step_ddim(
        self,
        prediction: AbstractPrediction,
        t: Scalar,
        x: Event,
        dt: Scalar,
        *,
        eta: float = 0.0,
        key: KeyArray | None = None,
        noise: Event | None = None,
        mask: ArrayLike | None = None,
        centre: bool = False,
    ) -> Event:
        """DDIM (Song et al. 2021, eq. 12): `eta=0` is deterministic and takes no noise; `eta=1` equals [`step`][]."""
        coefficients, _, _ = self._kernel(t, dt, eta**2 if eta else None)
        x = coefficients.mean(x, prediction.data)
        return tidy(add_noise(x, coefficients.std, key, noise) if eta else x, mask, centre)

    def step_ode(
        self,
        prediction: AbstractPrediction,
        t: Scalar,
        x: Event,
        dt: Scalar,
        *,
        temperature: float | Array = 1.0,
        mask: ArrayLike | None = None,
        centre: bool = False,
    ) -> Event:
        """An Euler step of the probability flow, or of [`TemperedFlow`][] if `temperature` is not 1."""
        drift = prediction.velocity
        # At temperature 1 the score is not used; it may be infinite where the velocity is finite.
        if not (isinstance(temperature, int | float) and temperature == 1):
            drift = TemperedFlow(temperature).drift_of(drift, prediction.score, self.schedule, t)
        return tidy(move(x, drift, dt), mask, centre)

    def step_hybrid_sde(
        self,
        prediction: AbstractPrediction,
        t: Scalar,
        x: Event,
        dt: Scalar,
        *,
        equilibrium_rate: float | Array = 0.0,
        temperature: float | Array = 1.0,
        key: KeyArray | None = None,
        noise: Event | None = None,
        mask: ArrayLike | None = None,
        centre: bool = False,
    ) -> Event:
        """An Euler-Maruyama step of [`HybridSDE`][]; singular where alpha(t) is 0, like the SDE's coefficients."""
        sde = HybridSDE(equilibrium_rate, temperature=temperature)
        mean = move(x, sde.drift_of(prediction.velocity, prediction.score, self.schedule, t), dt)
        return tidy(diffuse(mean, sde.noise_scale(self.schedule, t), dt, key, noise), mask, centre)
