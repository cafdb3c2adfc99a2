r"""A model of a path with a latent: the velocity $b$ from one network and the score $s$ from another.

$$\mathrm{d}X = b\, \mathrm{d}t, \qquad \mathrm{d}X = (b + \varepsilon s)\, \mathrm{d}t + \sqrt{2 \varepsilon}\,
\mathrm{d}W, \qquad s = -\mathbb{E}[z | x_t] / \gamma$$

have the marginals of the path for any $\varepsilon(t) \ge 0$ (Albergo et al. 2023, theorem 2.8 and corollary 2.18).
"""

from typing import ClassVar

import equinox as eqx

from .._base.typing import Condition, DType, Event, Scalar, Shape
from ..prior import AbstractPrior, Gaussian
from ..schedule import AbstractSchedule
from .base import TIME_MARGIN, AbstractContinuousModel, AbstractPrediction
from .prediction import AbstractLatentPrediction
from .trained import Model


class BridgePrediction(AbstractLatentPrediction):
    """The velocity of one prediction and the score of another."""

    flow: AbstractPrediction
    latent: AbstractPrediction

    @property
    def velocity(self) -> Event:
        return self.flow.velocity

    @property
    def score(self) -> Event:
        return self.latent.score


class Bridge(AbstractContinuousModel):
    """Combines two trained models of the same path with a latent, for stochastic sampling between two data sets.

    Sample with `ReverseSDE(dynamics.Constant(eps))`, or with another coefficient that does not depend on the schedule.
    The `prior` is the distribution of the latent. Samples start from the source of the velocity model, or from `x0` if
    it is passed to `sample`.
    """

    flow: Model
    latent: Model
    prior: AbstractPrior
    shape: Shape = eqx.field(static=True)
    dtype: DType = eqx.field(static=True)
    t_min: float = eqx.field(static=True)
    t_max: float = eqx.field(static=True)
    is_affine: ClassVar[bool] = False

    def __init__(self, flow: Model, latent: Model):
        """**Arguments:**

        - `flow`: a model with an `interpolant.Latent` and target `Velocity()`.
        - `latent`: a model with the same interpolant and target `target.LatentNoise()` or `Score()`.

        Raises `ValueError` unless both models have the same interpolant, with a latent, and the same events.
        """
        path, other = flow.interpolant, latent.interpolant
        if path.gamma is None or not eqx.tree_equal(path, other):
            raise ValueError("Bridge needs two models with the same interpolant.Latent; these have other interpolants.")
        if flow.shape != latent.shape or flow.dtype != latent.dtype:
            raise ValueError(
                f"Bridge needs two models with the same event shape and dtype; got {flow.shape} {flow.dtype} and "
                f"{latent.shape} {latent.dtype}."
            )
        self.flow, self.latent = flow, latent
        self.shape, self.dtype = flow.shape, flow.dtype
        self.prior = Gaussian(self.shape, dtype=self.dtype)
        self.t_min, self.t_max = flow.t_min, flow.t_max

    @property
    def schedule(self) -> AbstractSchedule:
        return self.flow.schedule

    @property
    def source(self) -> AbstractPrior:
        return self.source_at(self.t_min)

    def source_at(self, t: Scalar) -> AbstractPrior:
        """The distribution of the start at time `t`. The contribution of the data at `t` is neglected."""
        return self.flow.source_at(t)

    @property
    def score_interval(self) -> tuple[float, float]:
        gamma = self.flow.interpolant.gamma
        margin = TIME_MARGIN if gamma is not None and gamma.vanishes else 0.0
        return max(self.t_min, margin), min(self.t_max, 1 - margin)

    def predict(self, t: Scalar, x: Event, condition: Condition = None) -> BridgePrediction:
        return BridgePrediction(self.flow.predict(t, x, condition), self.latent.predict(t, x, condition))
