"""Predictions of a model: the network's output at one event, converted on access.

On an affine path the table of `target` converts the output to data, noise, velocity and score. On a path with a latent
a network gives either the velocity or the score.
"""

import equinox as eqx

from .._base.typing import Array, Event
from ..interpolant import AbstractGamma
from ..prior import AbstractGaussianPrior, AbstractPrior
from ..schedule import AbstractSchedule, Scales
from .base import AbstractPrediction
from .target import AbstractTarget, LatentNoise, Score, Velocity


class AffinePrediction(AbstractPrediction):
    """A network's output, converted on access by the table of `target`."""

    output: Event
    x: Event
    scales: Scales
    target: AbstractTarget
    prior: AbstractPrior
    independent: bool = eqx.field(static=True)
    timeless: bool = eqx.field(static=True, default=False)

    @property
    def _tabled(self) -> Event:
        # The table assumes standard normal noise, for which the score is -noise / sigma.
        if isinstance(self.target, Score):
            prior = gaussian_or_raise(self.prior, independent=self.independent)
            return prior.covariance_product(self.output) - prior.mean.astype(self.x.dtype) / self.scales.sigma
        return self.output

    @property
    def data(self) -> Event:
        return self.target.data(self._tabled, self.x, self.scales)

    @property
    def noise(self) -> Event:
        return self.target.noise(self._tabled, self.x, self.scales)

    @property
    def velocity(self) -> Event:
        return self.target.velocity(self._tabled, self.x, self.scales)

    @property
    def score(self) -> Event:
        if self.timeless:
            raise ValueError(TIMELESS)
        prior = gaussian_or_raise(self.prior, independent=self.independent)
        if isinstance(self.target, Score):
            return self.output
        return conditional_score(prior, self.noise, self.scales)


def conditional_score(prior: AbstractGaussianPrior, noise: Event, scales: Scales) -> Event:
    r"""$-C^{-1} (n - m) / \sigma$, the score given the noise $n$, for a prior with mean $m$ and covariance $C$."""
    return prior.precision_product(prior.mean.astype(noise.dtype) - noise) / scales.sigma


def gaussian_or_raise(prior: AbstractPrior, *, independent: bool) -> AbstractGaussianPrior:
    """Returns a Gaussian prior. Raises `ValueError` if it is not Gaussian or not independent of the data: no score."""
    if not independent:
        raise ValueError(
            "This model has no score: its coupling makes noise and data dependent; train with coupling=Independent() "
            "for the score, ReverseSDE, Langevin or guidance."
        )
    if not isinstance(prior, AbstractGaussianPrior):
        raise ValueError(
            f"This model has no score: its prior, {type(prior).__name__}, is not Gaussian; use the "
            "probability flow, or a Gaussian prior for the score, ReverseSDE, Langevin or guidance."
        )
    return prior


class AbstractLatentPrediction(AbstractPrediction):
    """A prediction on a path with a latent, which determines neither the data nor the noise."""

    @property
    def data(self) -> Event:
        raise ValueError(_NO_DATA)

    @property
    def noise(self) -> Event:
        raise ValueError(_NO_DATA)


class LatentPrediction(AbstractLatentPrediction):
    """The prediction of one network on a path with a latent: either the velocity or the score."""

    output: Event
    target: AbstractTarget
    gamma: Array

    @property
    def velocity(self) -> Event:
        if not isinstance(self.target, Velocity):
            raise ValueError(
                f"A network with target {type(self.target).__name__} has no velocity; combine it with a velocity model "
                "in a Bridge."
            )
        return self.output

    @property
    def score(self) -> Event:
        if isinstance(self.target, Velocity):
            raise ValueError(VELOCITY_ONLY)
        return self.output if isinstance(self.target, Score) else -self.output / self.gamma


_NO_DATA = (
    "A model of a path with a latent has no data or noise prediction; exponential solvers and Tweedie need one, so use "
    "them on affine paths only."
)
TIMELESS = (
    "This model has no score: its network does not depend on time, so its output is not the velocity of an "
    "interpolant; use the probability flow."
)
VELOCITY_ONLY = (
    "This model has no score: its network predicts the velocity of a path with a latent; combine it in a Bridge with a "
    "model whose target is target.LatentNoise()."
)


def check_latent(target: AbstractTarget) -> None:
    """Raises `ValueError` for a target that is not defined on a path with a latent."""
    if not isinstance(target, Velocity | LatentNoise | Score):
        raise ValueError(
            "On a path with a latent the target must be Velocity(), target.LatentNoise() or Score(); "
            f"got {type(target).__name__}()."
        )


def latent_ends(target: AbstractTarget, schedule: AbstractSchedule, gamma: AbstractGamma) -> tuple[bool, bool]:
    """Whether a target on a path with a latent is singular at `t = 0`, and whether at `t = 1`."""
    if isinstance(target, Velocity):
        return target.singular_ends(schedule)
    vanishes = gamma.vanishes and isinstance(target, Score)
    return vanishes, vanishes
