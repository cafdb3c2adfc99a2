r"""Guidance by the difference of two predictions, $p = p_{\text{null}} + w\,(p_{\text{cond}} - p_{\text{null}})$.

At fixed $(t, x)$ the data, noise, velocity and score are affine functions of one another, so that combining one of them
linearly combines all of them in the same way.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp

from .._base.checks import check_broadcast, check_number
from .._base.typing import Array, Condition, DType, Event, Scalar, Shape
from ..model.base import AbstractContinuousModel, AbstractPrediction, AbstractWrappedModel
from ..prior import AbstractPrior
from ..schedule import AbstractSchedule


class MixedPrediction(AbstractPrediction):
    """The linear combination of two predictions, applied to each form of the prediction."""

    guided: AbstractPrediction
    other: AbstractPrediction
    weight: Array
    """The weight $w$, of a shape that broadcasts to an event."""

    def _mix(self, guided: Event, other: Event) -> Event:
        return other + self.weight.astype(other.dtype) * (guided - other)

    @property
    def data(self) -> Event:
        return self._mix(self.guided.data, self.other.data)

    @property
    def noise(self) -> Event:
        return self._mix(self.guided.noise, self.other.noise)

    @property
    def velocity(self) -> Event:
        return self._mix(self.guided.velocity, self.other.velocity)

    @property
    def score(self) -> Event:
        return self._mix(self.guided.score, self.other.score)


class ClassifierFree(AbstractWrappedModel):
    r"""Classifier-free guidance of a conditional model, or guidance by another model.

    Its score is $(1 - w) \nabla \log p_t(x) + w \nabla \log p_t(x | c)$, which for $w > 1$ is not the score of any
    noising process: samples are sharper than samples of $p(x | c)$, and `log_prob` is the density of the samples of the
    guided flow. Train one network for both predictions with `Matching(condition_dropout=ConditionDropout(p, null))`.

    **References:** [@ho2022classifier], [@karras2024guiding].
    """

    model: AbstractContinuousModel
    other: AbstractContinuousModel
    null: Condition | Callable[[Condition], Condition]
    weight: Array
    start: float = eqx.field(static=True)
    stop: float = eqx.field(static=True)
    shape: Shape = eqx.field(static=True)
    dtype: DType = eqx.field(static=True)
    t_min: float = eqx.field(static=True)
    t_max: float = eqx.field(static=True)

    def __init__(
        self,
        model: AbstractContinuousModel,
        weight: float | Array,
        *,
        null: Condition | Callable[[Condition], Condition] = None,
        other: AbstractContinuousModel | None = None,
        interval: tuple[float, float] = (0.0, 1.0),
    ):
        """**Arguments:**

        - `model`: a conditional model.
        - `weight`: the guidance weight $w$: 0 gives the other prediction, 1 the prediction of `model`, and values above
            1 amplify the condition. A scalar, or an array that broadcasts to an event, with ones where no guidance is
            wanted.
        - `null`: the condition of the other prediction: the null condition of training, or a function that computes it
            from the condition. If `ConditionDropout` had no `null`, it is zeros of the shape of the condition. With
            None, `other` takes the same condition as `model`.
        - `other`: the model of the other prediction, with the same schedule, prior and events. A worse version of
            `model` gives autoguidance. Default: `model`.
        - `interval`: the closed interval of times with guidance; at other times `model` is used alone. Default: all
            times.

        **Raises:** `ValueError` if neither `null` nor `other` is given, if `other` has other events or another schedule
        or prior, or if `weight` does not broadcast to an event.
        """
        if null is None and other is None:
            raise ValueError("ClassifierFree needs null=<the null condition of training>, or other=<a model>.")
        self.model, self.other, self.null = model, model if other is None else other, null
        if self.other.shape != model.shape or self.other.dtype != model.dtype:
            raise ValueError(f"other has events of {self.other.shape}, but the model has events of {model.shape}.")
        if not eqx.tree_equal((self.other.schedule, self.other.prior), (model.schedule, model.prior)):
            raise ValueError("other has another schedule or prior than the model; convert its schedule with warp.")
        self.weight = jnp.asarray(weight, model.dtype)
        check_broadcast("weight", self.weight.shape, model.shape)
        self.start, self.stop = map(float, interval)
        if not self.start <= self.stop:
            raise ValueError(f"interval must be two increasing times; got {interval}.")
        self.shape, self.dtype = model.shape, model.dtype
        self.t_min = max(model.t_min, self.other.t_min)
        self.t_max = min(model.t_max, self.other.t_max)

    def __check_init__(self) -> None:
        check_number("weight", self.weight)

    @property
    def schedule(self) -> AbstractSchedule:
        return self.model.schedule

    def source_at(self, t: Scalar) -> AbstractPrior:
        """The marginal of `model` at `t`."""
        return self.model.source_at(t)

    @property
    def score_interval(self) -> tuple[float, float]:
        ends = self.model.score_interval, self.other.score_interval
        return max(low for low, _ in ends), min(high for _, high in ends)

    def predict(self, t: Scalar, x: Event, condition: Condition = None) -> MixedPrediction:
        if self.null is None:
            null = condition
        else:
            # The condition has been cast to the dtypes of training; cast the null condition alike.
            null = self.null(condition) if callable(self.null) else self.null
            null = jax.tree.map(lambda given, null: jnp.asarray(null, given.dtype), condition, null)
        inside = (self.start <= t) & (t <= self.stop)
        weight = jnp.where(inside, self.weight, jnp.ones_like(self.weight))
        return MixedPrediction(self.model.predict(t, x, condition), self.other.predict(t, x, null), weight)
