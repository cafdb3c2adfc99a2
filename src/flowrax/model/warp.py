r"""A trained model under another schedule, by an exact change of variables.

At times where two schedules have the same log-SNR, $\lambda_B(t) = \lambda_A(u)$, their scales are proportional,
$(\alpha_B, \sigma_B)(t) = c\, (\alpha_A, \sigma_A)(u)$, and so are their paths: $x^B_t = c\, x^A_u$ for every draw of
noise and data. Hence the predictions of data and noise at $x^B_t$ equal the predictions at $x^A_u = x^B_t / c$, the
score is divided by $c$, and the velocity follows from data and noise with the rates of the new schedule (Karras et al.
2022; Pokle et al. 2024).
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp

from .._base.arguments import checked
from .._base.checks import check_instance
from .._base.typing import Array, Condition, DType, Event, Scalar, Shape
from ..prior import AbstractPrior, rescaled
from ..schedule import AbstractSchedule, Scales
from .base import TIME_MARGIN, AbstractContinuousModel, AbstractPrediction, AbstractWrappedModel
from .trained import data_interval


@checked
def warp(model: AbstractContinuousModel, schedule: AbstractSchedule) -> "WarpedModel":
    """Transfers a model to the path of another schedule without retraining.

    The flow passes through the same distributions at the same log-SNR, up to a scale, so its final distribution is also
    the same up to a scale. Use it to sample or evaluate a model on a path that is easier to integrate, or with a
    dynamics that another schedule defines.

    !!! example

        ```python
        fast = frx.warp(trained, frx.Linear())
        samples = frx.sample(fast, key, 100, grid=20)
        ```

    **Reference:** [@pokle2024training].

    **Arguments:**

    - `model`: any model of an affine path: trained, exact or guided.
    - `schedule`: the new schedule. Its range of log-SNRs must overlap with the range of the model.

    **Returns:** a [`WarpedModel`][], on the time interval of the overlap.

    **Raises:** `ValueError` if the ranges do not overlap, and for a model of a path that is not affine.
    """
    check_instance("model", model, AbstractContinuousModel)
    return WarpedModel(model, schedule)


class WarpedPrediction(AbstractPrediction):
    """The prediction of a model at the same log-SNR on another schedule, converted on access."""

    prediction: AbstractPrediction
    scales: Scales
    factor: Array

    @property
    def data(self) -> Event:
        return self.prediction.data

    @property
    def noise(self) -> Event:
        return self.prediction.noise

    @property
    def velocity(self) -> Event:
        return self.scales.alpha_rate * self.data + self.scales.sigma_rate * self.noise

    @property
    def score(self) -> Event:
        return self.prediction.score / self.factor


class WarpedModel(AbstractWrappedModel):
    """The model returned by [`warp`][]."""

    model: AbstractContinuousModel
    schedule: AbstractSchedule
    shape: Shape = eqx.field(static=True)
    dtype: DType = eqx.field(static=True)
    t_min: float = eqx.field(static=True)
    t_max: float = eqx.field(static=True)
    score_ends: tuple[float, float] | None = eqx.field(static=True)

    def __init__(self, model: AbstractContinuousModel, schedule: AbstractSchedule) -> None:
        """The arguments are as in [`warp`][]."""
        if not model.is_affine:
            raise ValueError("The path of this model has a latent; only a model of an affine path can be warped.")
        self.model, self.schedule = model, schedule
        self.shape, self.dtype = model.shape, model.dtype
        self.t_min, t_max = _overlap(model, schedule, *data_interval(model))
        # The velocity, computed from data and noise, is infinite where the rate of sigma is.
        self.t_max = min(t_max, 1 - TIME_MARGIN) if 1.0 in schedule.singularities.sigma_rate else t_max
        try:
            low, high = _overlap(model, schedule, *model.score_interval)
        except ValueError:
            self.score_ends = None
        else:
            self.score_ends = max(low, self.t_min), min(high, self.t_max)

    def source_at(self, t: Scalar) -> AbstractPrior:
        """The distribution from which the original model starts at the same log-SNR, rescaled."""
        time, factor = self._at(jnp.asarray(t, float))
        return rescaled(self.model.source_at(time), factor)

    @property
    def score_interval(self) -> tuple[float, float]:
        if self.score_ends is None:
            # The original model has no score, or none in the overlap; its own property raises the error, if any.
            return self.model.score_interval
        return self.score_ends

    def predict(self, t: Scalar, x: Event, condition: Condition = None) -> WarpedPrediction:
        t = jnp.asarray(t)
        time, factor = self._at(t)
        factor = factor.astype(x.dtype)
        return WarpedPrediction(
            self.model.predict(time, x / factor, condition), self.schedule.scales(t, x.dtype), factor
        )

    def _at(self, t: Array) -> tuple[Array, Array]:
        """The time of the original model at the same log-SNR, and the ratio of this path's scale to the original's."""
        ours = self.model.schedule
        time = jnp.clip(ours.time_at(self.schedule.log_snr(t)), self.model.t_min, self.model.t_max)
        # Compare the norms of (alpha, sigma), because one of the two scales may vanish.
        new = jnp.hypot(self.schedule.alpha(t), self.schedule.sigma(t))
        return time, new / jnp.hypot(ours.alpha(time), ours.sigma(time))


def _overlap(
    model: AbstractContinuousModel, schedule: AbstractSchedule, t_min: float, t_max: float
) -> tuple[float, float]:
    """The times of the new schedule at which its log-SNR lies in the model's range on `[t_min, t_max]`."""
    first, last = _log_snr(model.schedule, t_min), _log_snr(model.schedule, t_max)
    start, end = _log_snr(schedule, 0.0), _log_snr(schedule, 1.0)
    if not max(first, start) < min(last, end):
        raise ValueError(
            f"The model covers log-SNRs from {first:.3g} to {last:.3g}, but the new schedule covers {start:.3g} to "
            f"{end:.3g}; choose a schedule whose range overlaps the model's."
        )
    low = 0.0 if start >= first else _time_at(schedule, first)
    high = 1.0 if end <= last else _time_at(schedule, last)
    return low, high


def _log_snr(schedule: AbstractSchedule, t: float) -> float:
    if t in schedule.singularities.log_snr:
        return -math.inf if t == 0 else math.inf
    with jax.ensure_compile_time_eval():
        return float(schedule.log_snr(jnp.asarray(t, float)))


def _time_at(schedule: AbstractSchedule, log_snr: float) -> float:
    with jax.ensure_compile_time_eval():
        return float(schedule.time_at(jnp.asarray(log_snr, float)))
