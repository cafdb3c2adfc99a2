r"""Variational diffusion models: a chain in continuous time, under any schedule (Kingma et al. 2021).

Whoever counts time from the data, $s = 1 - t$, steps from $s$ to $s - \mathrm{d}s$; here that is from $t = 1 - s$ to
$t + \mathrm{d}t$ with $\mathrm{d}t = \mathrm{d}s$. `dt` is positive in both.
"""

import equinox as eqx
import jax.numpy as jnp

from .._checks import is_traced
from .._typing import Array, ArrayLike, Event, KeyArray, Scalar
from ..abstract import AbstractPrediction
from ..dynamics import HybridSDE, TemperedFlow
from ..model import Converted
from ..schedule import AbstractSchedule
from ..target import AbstractTarget, Data
from .kernel import Kernel, add_noise, check_positive_dt, converted, diffuse, kernel, move, tidy


class VDM(eqx.Module):
    r"""The steps of a diffusion in continuous time, for one event each.

    The steps take what a model says of `x` at `t`: of a network's bare output that is `predict(output, t, x)`, of a
    model `model.predict(t, x, condition)`. Drawn by a verb, the same steps are, on a grid:

    | step | `frx.sample` with |
    |---|---|
    | [`step`][] | `dynamics=ReverseSDE(), solver=DDIM()` |
    | [`step_ddim`][] | `dynamics=ReverseSDE(SBDM(eta**2)), solver=DDIM()`; at 0 `solver=DDIM()` alone |
    | [`step_hybrid_sde`][] | `dynamics=HybridSDE(psi, temperature=T), solver=diffrax.Euler()` |
    | [`step_ode`][] | `dynamics=TemperedFlow(T), solver=diffrax.Euler()` |

    Noise is standard normal and independent of the data; the verbs take any prior.

    Common arguments: `key` or `noise`, standard normal numbers of the shape of `x`, where a step draws (one to the data
    does not, and outside `jit` needs neither); `mask`,
    `(..., nodes)` for events `(..., nodes, features)`, whose masked nodes are zero after the step; `centre`, whether
    the mean of the others is removed.

    **Reference:** [@kingma2021variational].
    """

    schedule: AbstractSchedule
    target: AbstractTarget

    def __init__(self, schedule: AbstractSchedule, target: AbstractTarget | None = None):
        """**Arguments:**

        - `schedule`: of the interpolant.
        - `target`: what an output given to [`predict`][] is; the data without.
        """
        self.schedule, self.target = schedule, Data() if target is None else target

    def predict(self, output: Event, t: Scalar, x: Event) -> Converted:
        """Data, noise, velocity and score by a network's output at `(t, x)`."""
        return converted(output, x, self.schedule.scales(t, x.dtype), self.target)

    def _kernel(self, t: Scalar, dt: Scalar, share: float | Array | None) -> tuple[Kernel, Array, Array]:
        check_positive_dt(dt)
        start = jnp.asarray(t)
        end = start + jnp.asarray(dt, start.dtype)
        if not is_traced(end) and not 0 <= float(start) <= float(end) <= 1 + 1e-6:
            raise ValueError(f"A step from t={float(start):g} to {float(end):g} leaves [0, 1]; t=1 is the data.")
        # The sum of times that add up to one may miss it by rounding.
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
        """Ancestral: a draw of $q(x_{t + dt} | x_t, x_1)$ at the data prediction; `temperature` scales its noise."""
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
        """The ancestral step by the noise prediction, equal to [`step`][]; singular where alpha(t) is 0."""
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
        """DDIM (Song et al. 2021, eq. 12): `eta=0` is deterministic, without key or noise; `eta=1` is [`step`][]."""
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
        """An Euler step of the probability flow, or of [`TemperedFlow`][] at another temperature."""
        drift = prediction.velocity
        # The flow itself has no use for a score, which may be infinite where it is not.
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
        """An Euler-Maruyama step of [`HybridSDE`][]; singular where alpha(t) is 0, as its coefficients are."""
        sde = HybridSDE(equilibrium_rate, temperature=temperature)
        mean = move(x, sde.drift_of(prediction.velocity, prediction.score, self.schedule, t), dt)
        return tidy(diffuse(mean, sde.noise_scale(self.schedule, t), dt, key, noise), mask, centre)
