r"""What a network predicts, and the one table by which every prediction becomes every other.

The common currency is the pair (data, noise) with $x = \alpha\, d + \sigma\, n$. For the exact predictions
$d = \mathbb{E}[x_1 | x_t]$, $n = \mathbb{E}[x_0 | x_t]$:

| target | its value | needs no division by |
|---|---|---|
| [`Data`][] | $d$ | $\alpha$ |
| [`Noise`][] | $n$ | $\sigma$ |
| [`Velocity`][] | $\dot\alpha d + \dot\sigma n$ | either |
| [`Score`][] | $-n / \sigma$ | $\sigma$ |
| [`V`][] | $\alpha n - \sigma d$ | either |

The velocity follows from the score as $v = (\dot\alpha / \alpha)\, x + (g^2 / 2)\, s$ and, with nothing to divide by,
$v = \dot\alpha\, d - \tfrac12 (\mathrm{d}\sigma^2 / \mathrm{d}t)\, s$. There are no clamps: where a conversion is
singular the model's interval of time stops short of it.
"""

import abc

import equinox as eqx
import jax.numpy as jnp

from ._typing import Array, Event
from .schedule import AbstractSchedule, Scales


class AbstractTarget(eqx.Module):
    """One row of the table. `output` and `x` are one event, `s` the scales at its time."""

    @abc.abstractmethod
    def of(self, data: Event, noise: Event, s: Scales) -> Event:
        """What a network is regressed on, given a draw of data and noise."""

    @abc.abstractmethod
    def data(self, output: Event, x: Event, s: Scales) -> Event:
        """The denoised data."""

    @abc.abstractmethod
    def noise(self, output: Event, x: Event, s: Scales) -> Event:
        """The predicted noise."""

    @abc.abstractmethod
    def velocity(self, output: Event, x: Event, s: Scales) -> Event:
        """The velocity of the probability flow."""

    @abc.abstractmethod
    def score(self, output: Event, x: Event, s: Scales) -> Event:
        """The score of the marginal, for Gaussian noise that is independent of the data."""

    @abc.abstractmethod
    def gain(self, s: Scales) -> Array:
        """The error of this target per unit error of the data prediction, at the same `x`."""

    @abc.abstractmethod
    def singular_ends(self, schedule: AbstractSchedule) -> tuple[bool, bool]:
        """Whether the regression or the velocity is singular at `t = 0` and at `t = 1`."""


class Data(AbstractTarget):
    """The network denoises."""

    def of(self, data: Event, noise: Event, s: Scales) -> Event:
        return data

    def data(self, output: Event, x: Event, s: Scales) -> Event:
        return output

    def noise(self, output: Event, x: Event, s: Scales) -> Event:
        return (x - s.alpha * output) / s.sigma

    def velocity(self, output: Event, x: Event, s: Scales) -> Event:
        return s.alpha_rate * output + s.sigma_rate * self.noise(output, x, s)

    def score(self, output: Event, x: Event, s: Scales) -> Event:
        return -self.noise(output, x, s) / s.sigma

    def gain(self, s: Scales) -> Array:
        return jnp.ones_like(s.alpha)

    def singular_ends(self, schedule: AbstractSchedule) -> tuple[bool, bool]:
        return False, schedule.is_singular("log_snr", 1.0)


class Noise(AbstractTarget):
    r"""The network predicts the noise (Ho et al. 2020, $\epsilon$).

    Where $\alpha(0) = 0$ (linear, cosine) the flow amplifies the network's error near the noise end by
    $\alpha(1) / \alpha(t_{\min})$: prefer [`Velocity`][], [`V`][] or [`Data`][] there.
    """

    def of(self, data: Event, noise: Event, s: Scales) -> Event:
        return noise

    def data(self, output: Event, x: Event, s: Scales) -> Event:
        return (x - s.sigma * output) / s.alpha

    def noise(self, output: Event, x: Event, s: Scales) -> Event:
        return output

    def velocity(self, output: Event, x: Event, s: Scales) -> Event:
        return s.alpha_rate * self.data(output, x, s) + s.sigma_rate * output

    def score(self, output: Event, x: Event, s: Scales) -> Event:
        return -output / s.sigma

    def gain(self, s: Scales) -> Array:
        return -s.alpha / s.sigma

    def singular_ends(self, schedule: AbstractSchedule) -> tuple[bool, bool]:
        return schedule.is_singular("drift", 0.0), schedule.is_singular("sigma_rate", 1.0)


class Velocity(AbstractTarget):
    """The network is the velocity (flow matching)."""

    def of(self, data: Event, noise: Event, s: Scales) -> Event:
        return s.alpha_rate * data + s.sigma_rate * noise

    def data(self, output: Event, x: Event, s: Scales) -> Event:
        return (s.sigma_rate * x - s.sigma * output) / _determinant(s)

    def noise(self, output: Event, x: Event, s: Scales) -> Event:
        return (s.alpha * output - s.alpha_rate * x) / _determinant(s)

    def velocity(self, output: Event, x: Event, s: Scales) -> Event:
        return output

    def score(self, output: Event, x: Event, s: Scales) -> Event:
        return -self.noise(output, x, s) / s.sigma

    def gain(self, s: Scales) -> Array:
        return -_determinant(s) / s.sigma

    def singular_ends(self, schedule: AbstractSchedule) -> tuple[bool, bool]:
        return False, schedule.is_singular("sigma_rate", 1.0)


class Score(AbstractTarget):
    """The network is the score of the marginal (Song et al. 2021)."""

    def of(self, data: Event, noise: Event, s: Scales) -> Event:
        return -noise / s.sigma

    def data(self, output: Event, x: Event, s: Scales) -> Event:
        return (x + s.sigma**2 * output) / s.alpha

    def noise(self, output: Event, x: Event, s: Scales) -> Event:
        return -s.sigma * output

    def velocity(self, output: Event, x: Event, s: Scales) -> Event:
        return s.alpha_rate * self.data(output, x, s) - s.variance_rate / 2 * output

    def score(self, output: Event, x: Event, s: Scales) -> Event:
        return output

    def gain(self, s: Scales) -> Array:
        return s.alpha / s.sigma**2

    def singular_ends(self, schedule: AbstractSchedule) -> tuple[bool, bool]:
        return schedule.is_singular("drift", 0.0), schedule.is_singular("log_snr", 1.0)


class V(AbstractTarget):
    r"""Progressive distillation's $v = \alpha n - \sigma d$ (Salimans & Ho 2022): never singular for $(d, n)$."""

    def of(self, data: Event, noise: Event, s: Scales) -> Event:
        return s.alpha * noise - s.sigma * data

    def data(self, output: Event, x: Event, s: Scales) -> Event:
        return (s.alpha * x - s.sigma * output) / (s.alpha**2 + s.sigma**2)

    def noise(self, output: Event, x: Event, s: Scales) -> Event:
        return (s.sigma * x + s.alpha * output) / (s.alpha**2 + s.sigma**2)

    def velocity(self, output: Event, x: Event, s: Scales) -> Event:
        return s.alpha_rate * self.data(output, x, s) + s.sigma_rate * self.noise(output, x, s)

    def score(self, output: Event, x: Event, s: Scales) -> Event:
        return -self.noise(output, x, s) / s.sigma

    def gain(self, s: Scales) -> Array:
        return -(s.alpha**2 + s.sigma**2) / s.sigma

    def singular_ends(self, schedule: AbstractSchedule) -> tuple[bool, bool]:
        return False, schedule.is_singular("sigma_rate", 1.0)


class Latent(AbstractTarget):
    r"""The network predicts the latent of an `interpolant.Latent` (Albergo et al. 2023, $\eta$).

    Its regression is bounded at all times, unlike that of the score $-\eta / \gamma$. It is no row of the table.
    """

    def of(self, data: Event, noise: Event, s: Scales) -> Event:
        raise ValueError(_NOT_AFFINE)

    def data(self, output: Event, x: Event, s: Scales) -> Event:
        raise ValueError(_NOT_AFFINE)

    def noise(self, output: Event, x: Event, s: Scales) -> Event:
        raise ValueError(_NOT_AFFINE)

    def velocity(self, output: Event, x: Event, s: Scales) -> Event:
        raise ValueError(_NOT_AFFINE)

    def score(self, output: Event, x: Event, s: Scales) -> Event:
        raise ValueError(_NOT_AFFINE)

    def gain(self, s: Scales) -> Array:
        raise ValueError(_NOT_AFFINE)

    def singular_ends(self, schedule: AbstractSchedule) -> tuple[bool, bool]:
        raise ValueError(_NOT_AFFINE)


_NOT_AFFINE = "target.Latent() is for paths with a latent; use interpolant.Latent(schedule, gamma), or another target."


def _determinant(s: Scales) -> Array:
    """Of the 2 x 2 system that gives (data, noise) from (x, velocity)."""
    return s.alpha * s.sigma_rate - s.alpha_rate * s.sigma
