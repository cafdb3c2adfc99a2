r"""The targets that a network can predict, and the table that converts every prediction into every other.

All conversions go through the pair (data, noise) with $x = \alpha\, d + \sigma\, n$. For the exact predictions
$d = \mathbb{E}[x_1 | x_t]$ and $n = \mathbb{E}[x_0 | x_t]$:

| target | value | (data, noise) without division by |
|---|---|---|
| [`Data`][] | $d$ | $\alpha$ |
| [`Noise`][] | $n$ | $\sigma$ |
| [`Velocity`][] | $\dot\alpha d + \dot\sigma n$ | either |
| [`Score`][] | $-n / \sigma$ | $\sigma$ |
| [`V`][] | $\alpha n - \sigma d$ | either |

The velocity follows from the score $s$ as $v = (\dot\alpha / \alpha)\, x + (g^2 / 2)\, s$ or, without a division, as
$v = \dot\alpha\, d - \tfrac12 (\mathrm{d}\sigma^2 / \mathrm{d}t)\, s$. Nothing is clamped: if a conversion is singular
at an end point, the model's time interval excludes a margin around it.
"""

import abc
from typing import Any

import equinox as eqx
import jax.numpy as jnp

from .._base.arguments import Checked
from .._base.typing import Array, Event
from ..schedule import AbstractSchedule, Scales


class AbstractTarget(eqx.Module, metaclass=Checked):
    """One row of the table. `output` and `x` are single events, and `s` holds the scales at the time of `x`."""

    @abc.abstractmethod
    def from_pair(self, data: Event, noise: Event, s: Scales) -> Event:
        """The regression target of the network, given a draw of data and noise."""

    @abc.abstractmethod
    def data(self, output: Event, x: Event, s: Scales) -> Event:
        """The data prediction (denoised data)."""

    @abc.abstractmethod
    def noise(self, output: Event, x: Event, s: Scales) -> Event:
        """The noise prediction."""

    @abc.abstractmethod
    def velocity(self, output: Event, x: Event, s: Scales) -> Event:
        """The velocity of the probability flow."""

    @abc.abstractmethod
    def gain(self, s: Scales) -> Array:
        """The derivative of this target with respect to the data prediction at fixed `x`."""

    @abc.abstractmethod
    def singular_ends(self, schedule: AbstractSchedule) -> tuple[bool, bool]:
        """Whether the regression target or the velocity is singular at `t = 0`, and whether at `t = 1`."""

    def score(self, output: Event, x: Event, s: Scales) -> Event:
        """The score of the marginal, for standard normal noise that is independent of the data."""
        # A network that predicts the score needs no division, which may be by zero.
        return output if isinstance(self, Score) else -self.noise(output, x, s) / s.sigma


class Data(AbstractTarget):
    """The network predicts the data (a denoiser)."""

    def from_pair(self, data: Event, noise: Event, s: Scales) -> Event:
        return data

    def data(self, output: Event, x: Event, s: Scales) -> Event:
        return output

    def noise(self, output: Event, x: Event, s: Scales) -> Event:
        return (x - s.alpha * output) / s.sigma

    def velocity(self, output: Event, x: Event, s: Scales) -> Event:
        return s.alpha_rate * output + s.sigma_rate * self.noise(output, x, s)

    def gain(self, s: Scales) -> Array:
        return jnp.ones_like(s.alpha)

    def singular_ends(self, schedule: AbstractSchedule) -> tuple[bool, bool]:
        return False, 1.0 in schedule.singularities.log_snr


class Noise(AbstractTarget):
    r"""The network predicts the noise ($\epsilon$ in Ho et al. 2020).

    If $\alpha(0) = 0$, as for linear and cosine schedules, the flow amplifies the network's error near the noise end by
    $\alpha(1) / \alpha(t_{\min})$. Prefer [`Velocity`][], [`V`][] or [`Data`][] for these schedules.
    """

    def from_pair(self, data: Event, noise: Event, s: Scales) -> Event:
        return noise

    def data(self, output: Event, x: Event, s: Scales) -> Event:
        return (x - s.sigma * output) / s.alpha

    def noise(self, output: Event, x: Event, s: Scales) -> Event:
        return output

    def velocity(self, output: Event, x: Event, s: Scales) -> Event:
        return s.alpha_rate * self.data(output, x, s) + s.sigma_rate * output

    def gain(self, s: Scales) -> Array:
        return -s.alpha / s.sigma

    def singular_ends(self, schedule: AbstractSchedule) -> tuple[bool, bool]:
        return 0.0 in schedule.singularities.forward_sde, 1.0 in schedule.singularities.sigma_rate


class Velocity(AbstractTarget):
    """The network predicts the velocity (flow matching)."""

    def from_pair(self, data: Event, noise: Event, s: Scales) -> Event:
        return s.alpha_rate * data + s.sigma_rate * noise

    def data(self, output: Event, x: Event, s: Scales) -> Event:
        return (s.sigma_rate * x - s.sigma * output) / _determinant(s)

    def noise(self, output: Event, x: Event, s: Scales) -> Event:
        return (s.alpha * output - s.alpha_rate * x) / _determinant(s)

    def velocity(self, output: Event, x: Event, s: Scales) -> Event:
        return output

    def gain(self, s: Scales) -> Array:
        return -_determinant(s) / s.sigma

    def singular_ends(self, schedule: AbstractSchedule) -> tuple[bool, bool]:
        return False, 1.0 in schedule.singularities.sigma_rate


class Score(AbstractTarget):
    """The network predicts the score of the marginal (Song et al. 2021)."""

    def from_pair(self, data: Event, noise: Event, s: Scales) -> Event:
        return -noise / s.sigma

    def data(self, output: Event, x: Event, s: Scales) -> Event:
        return (x + s.sigma**2 * output) / s.alpha

    def noise(self, output: Event, x: Event, s: Scales) -> Event:
        return -s.sigma * output

    def velocity(self, output: Event, x: Event, s: Scales) -> Event:
        return s.alpha_rate * self.data(output, x, s) - s.variance_rate / 2 * output

    def gain(self, s: Scales) -> Array:
        return s.alpha / s.sigma**2

    def singular_ends(self, schedule: AbstractSchedule) -> tuple[bool, bool]:
        return 0.0 in schedule.singularities.forward_sde, 1.0 in schedule.singularities.log_snr


class V(AbstractTarget):
    r"""$v = \alpha n - \sigma d$, as in progressive distillation (Salimans & Ho 2022).

    The conversion to data and noise is never singular.
    """

    def from_pair(self, data: Event, noise: Event, s: Scales) -> Event:
        return s.alpha * noise - s.sigma * data

    def data(self, output: Event, x: Event, s: Scales) -> Event:
        return (s.alpha * x - s.sigma * output) / (s.alpha**2 + s.sigma**2)

    def noise(self, output: Event, x: Event, s: Scales) -> Event:
        return (s.sigma * x + s.alpha * output) / (s.alpha**2 + s.sigma**2)

    def velocity(self, output: Event, x: Event, s: Scales) -> Event:
        return s.alpha_rate * self.data(output, x, s) + s.sigma_rate * self.noise(output, x, s)

    def gain(self, s: Scales) -> Array:
        return -(s.alpha**2 + s.sigma**2) / s.sigma

    def singular_ends(self, schedule: AbstractSchedule) -> tuple[bool, bool]:
        return False, 1.0 in schedule.singularities.sigma_rate


class LatentNoise(AbstractTarget):
    r"""The network predicts the latent of an `interpolant.Latent` ($\eta$ in Albergo et al. 2023).

    The regression target is bounded in time, unlike the score $-\eta / \gamma$. The latent does not determine data and
    noise, so this target is not in the table, and the methods raise `ValueError`.
    """

    def _raise(self, *args: Any, **options: Any) -> Any:
        raise ValueError(
            "target.LatentNoise() is for paths with a latent; use interpolant.Latent(schedule, gamma), or another "
            "target."
        )

    from_pair = data = noise = velocity = gain = singular_ends = _raise


def _determinant(s: Scales) -> Array:
    """The determinant of the 2 x 2 linear system that gives (data, noise) from (x, velocity)."""
    return s.alpha * s.sigma_rate - s.alpha_rate * s.sigma
