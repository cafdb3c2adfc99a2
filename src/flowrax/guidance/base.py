r"""Guided models: a model with $g(t, x) \approx \nabla_x \log p(y | x_t = x)$ added to its score.

All forms of the prediction follow from $s' = s + g$: with $x = \alpha d + \sigma n$ fixed,
$n' = n - \sigma g$, $d' = d + (\sigma^2 / \alpha)\, g$ and $v' = v + \tfrac12 g_{\text{SDE}}^2\, g$, where
$\tfrac12 g_{\text{SDE}}^2 = \sigma^2 \dot\alpha / \alpha - \tfrac12 \mathrm{d}\sigma^2 / \mathrm{d}t$. If the noise has
covariance $C$, all of these except $s'$ have $C g$ in place of $g$.
"""

import abc

import equinox as eqx

from .._base.arguments import Checked
from .._base.checks import check_methods
from .._base.typing import Array, Condition, DType, Event, Scalar, Shape
from ..model import scaled_score
from ..model.base import TIME_MARGIN, AbstractContinuousModel, AbstractPrediction, AbstractWrappedModel
from ..observation import LinearGaussian, Observation
from ..prior import AbstractPrior
from ..schedule import AbstractSchedule, Scales


class AbstractGuidance(eqx.Module, metaclass=Checked):
    """An approximation of the likelihood score of an observation under a model."""

    @abc.abstractmethod
    def __call__(
        self,
        model: AbstractContinuousModel,
        observation: LinearGaussian,
        t: Scalar,
        x: Event,
        condition: Condition,
    ) -> tuple[AbstractPrediction, Event]:
        r"""**Arguments:**

        - `model`: the unguided model.
        - `observation`: the observation of the model's event, flattened.
        - `t`: a scalar time at which `alpha` is positive.
        - `x`: one event.
        - `condition`: the condition of the event, or None.

        **Returns:** the unguided prediction of the model at `(t, x)`, and the likelihood score
        $\nabla_x \log p(y | x_t = x)$ there, of the shape of `x`.
        """


class GuidedPrediction(AbstractPrediction):
    """A prediction with a likelihood score added."""

    base: AbstractPrediction
    likelihood_score: Event
    scales: Scales
    diffusion_squared: Array
    """The squared diffusion coefficient of the forward SDE."""
    scaled_score: Event
    """The likelihood score times the prior's covariance."""

    @property
    def data(self) -> Event:
        return self.base.data + self.scales.sigma**2 / self.scales.alpha * self.scaled_score

    @property
    def noise(self) -> Event:
        return self.base.noise - self.scales.sigma * self.scaled_score

    @property
    def velocity(self) -> Event:
        return self.base.velocity + self.diffusion_squared / 2 * self.scaled_score

    @property
    def score(self) -> Event:
        return self.base.score + self.likelihood_score


def guided_prediction(
    model: AbstractContinuousModel, prediction: AbstractPrediction, likelihood_score: Event, t: Scalar
) -> GuidedPrediction:
    """Adds a term to the score of a prediction; data, noise and velocity follow.

    **Arguments:**

    - `model`: the unguided model, whose schedule and prior the conversions use.
    - `prediction`: the prediction of `model` at one event at time `t`.
    - `likelihood_score`: the term added to the score, of the shape of the event.
    - `t`: a scalar time at which `alpha` is positive.

    **Returns:** a [`GuidedPrediction`][].
    """
    dtype, schedule = likelihood_score.dtype, model.schedule
    scales, squared = schedule.scales(t, dtype), schedule.diffusion_squared(t).astype(dtype)
    return GuidedPrediction(prediction, likelihood_score, scales, squared, scaled_score(model, likelihood_score))


class GuidedModel(AbstractWrappedModel):
    """A model conditioned on an observation, sampled and evaluated like any other model.

    It starts at a time with `alpha > 0`, from the marginal of the unguided model at that time.
    """

    model: AbstractContinuousModel
    observation: LinearGaussian
    guidance: AbstractGuidance
    shape: Shape = eqx.field(static=True)
    dtype: DType = eqx.field(static=True)
    t_min: float = eqx.field(static=True)
    t_max: float = eqx.field(static=True)

    def __init__(self, model: AbstractContinuousModel, observation: Observation, guidance: AbstractGuidance) -> None:
        """**Arguments:**

        - `model`: a model that has a score.
        - `observation`: an observation of the model's events.
        - `guidance`: the approximation of the likelihood score.

        **Raises:** `ValueError` if the model has no score, or the operator of the observation does not match its
        events.
        """
        check_methods("observation", observation, ("check_event", "residual", "log_likelihood"))
        observation.check_event(model.shape)
        low, high = model.score_interval
        self.model, self.observation, self.guidance = model, observation, guidance
        self.shape, self.dtype = model.shape, model.dtype
        self.t_min = max(low, TIME_MARGIN) if (0.0 in model.schedule.singularities.forward_sde) else low
        self.t_max = high

    @property
    def schedule(self) -> AbstractSchedule:
        return self.model.schedule

    def source_at(self, t: Scalar) -> AbstractPrior:
        """The marginal of the unguided model at `t`."""
        return self.model.source_at(t)

    @property
    def score_interval(self) -> tuple[float, float]:
        return self.t_min, self.t_max

    def predict(self, t: Scalar, x: Event, condition: Condition = None) -> GuidedPrediction:
        prediction, likelihood_score = self.guidance(self.model, self.observation, t, x, condition)
        return guided_prediction(self.model, prediction, likelihood_score, t)
