r"""Guidance by the difference of two predictions, $p = p_{\text{null}} + w\,(p_{\text{cond}} - p_{\text{null}})$.

At one $(t, x)$ data, noise, velocity and score are affine in one another, so that mixing any of them mixes all.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp

from .._typing import Array, Condition, DType, Event, Scalar, Shape
from ..abstract import AbstractContinuousModel, AbstractPrediction, AbstractWrappedModel
from ..prior import AbstractPrior
from ..schedule import AbstractSchedule


class MixedPrediction(AbstractPrediction):
    """One prediction pushed away from another, form by form."""

    guided: AbstractPrediction
    other: AbstractPrediction
    weight: Array
    """$w$, of a shape that broadcasts to an event."""

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
    r"""A conditional model whose condition counts for more: classifier-free guidance, or guidance by another model.

    Its score is $(1 - w) \nabla \log p_t(x) + w \nabla \log p_t(x | c)$, which for $w > 1$ is that of no noised law:
    draws are sharper than those of $p(x | c)$ and `log_prob` is the density of what its own flow draws. Train one
    network for both by `Matching(condition_dropout=ConditionDropout(p, null))`.

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

        - `model`: of events given a condition.
        - `weight`: $w$; 0 is the other prediction, 1 the model's own, more is guidance. A scalar, or an array that
            broadcasts to an event: ones where nothing is to be guided.
        - `null`: the condition of the other prediction, as training dropped it, or a function that makes it of the
            condition: zeros of its shape where `ConditionDropout` had none.
        - `other`: the model of the other prediction, of the same schedule, prior and events: `model` itself without.
            A worse version of the model makes it autoguidance; then `null=None` gives it the same condition.
        - `interval`: of times at which there is guidance, ends included; outside it the model's own prediction counts.

        Raises `ValueError` for a model of other events or another path, and where neither `null` nor `other` is given.
        """
        if null is None and other is None:
            raise ValueError("ClassifierFree needs null=<the condition training dropped to>, or other=<a model>.")
        self.model, self.other, self.null = model, model if other is None else other, null
        if self.other.shape != model.shape or self.other.dtype != model.dtype:
            raise ValueError(f"other has events of {self.other.shape}, but the model has events of {model.shape}.")
        if not eqx.tree_equal((self.other.schedule, self.other.prior), (model.schedule, model.prior)):
            raise ValueError("other has another schedule or prior than the model; put it on the model's by warp.")
        self.weight = jnp.asarray(weight, model.dtype)
        sizes = zip(self.weight.shape[::-1], model.shape[::-1], strict=False)
        if self.weight.ndim > len(model.shape) or any(mine not in (1, size) for mine, size in sizes):
            raise ValueError(f"weight of shape {self.weight.shape} does not broadcast to an event, {model.shape}.")
        self.start, self.stop = map(float, interval)
        self.shape, self.dtype = model.shape, model.dtype
        self.t_min = max(model.t_min, self.other.t_min)
        self.t_max = min(model.t_max, self.other.t_max)

    @property
    def schedule(self) -> AbstractSchedule:
        return self.model.schedule

    def source_at(self, t: Scalar) -> AbstractPrior:
        """The model's own law at `t`."""
        return self.model.source_at(t)

    @property
    def score_interval(self) -> tuple[float, float]:
        ends = self.model.score_interval, self.other.score_interval
        return max(low for low, _ in ends), min(high for _, high in ends)

    def predict(self, t: Scalar, x: Event, condition: Condition = None) -> MixedPrediction:
        if self.null is None:
            null = condition
        else:
            # Dtypes of the condition that training saw, which the verbs have cast.
            null = self.null(condition) if callable(self.null) else self.null
            null = jax.tree.map(lambda given, null: jnp.asarray(null, given.dtype), condition, null)
        inside = (self.start <= t) & (t <= self.stop)
        weight = jnp.where(inside, self.weight, jnp.ones_like(self.weight))
        return MixedPrediction(self.model.predict(t, x, condition), self.other.predict(t, x, null), weight)
