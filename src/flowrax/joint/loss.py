"""The loss of a model of several parts: the sum of the losses of the parts, from one evaluation of the network."""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._base import random
from .._base.arguments import Checked
from .._base.checks import check_count, check_names, check_not_negative, in_single, plain_int, time_dtype
from .._base.typing import Array, Condition, DType, KeyArray, PyTree, Times
from ..discrete import CrossEntropy, GeneralisedKL, Hybrid
from ..discrete.categorical_model import CategoricalModel
from ..loss import AbstractLoss, ConditionDropout, Matching
from ..loss.matching import drop_condition
from ..times import AbstractTimes, Stratified


class IndependentTimes(AbstractTimes):
    """Draws an independent time for each part of a joint model."""

    parts: int = eqx.field(static=True, converter=plain_int)
    times: AbstractTimes = Stratified()

    def __check_init__(self) -> None:
        check_count("parts", self.parts)

    def __call__(self, key: KeyArray, n: int, t_min: float, t_max: float, dtype: DType) -> Array:
        """Times `(n, parts)`. Each column is permuted separately; stratified times would otherwise be correlated."""
        keys = jax.random.split(random.as_threefry(key), (self.parts, 2))
        drawn = [random.permutation(b, self.times(a, n, t_min, t_max, dtype)) for a, b in keys]
        return jnp.stack(drawn, axis=1)

    def correction(self, t: Times, t_min: float, t_max: float) -> Array:
        return jnp.prod(self.times.correction(t, t_min, t_max))


class JointMatching(AbstractLoss, metaclass=Checked):
    r"""$\sum_p \omega_p \mathcal{L}_p$ over the parts $p$ of a joint model, each with its own loss.

    - `losses`: the loss of each part, by name. Default: `CrossEntropy()` for categorical parts and `Matching()` for
      others.
    - `weights`: the weight $\omega_p$ of each part, by name. Default: 1.
    - `times`: the distribution of the times: one time for all parts or, with [`IndependentTimes`][], one for
      each part in the order of their names. The `times` of the parts' losses are ignored.
    - `condition_dropout`: for classifier-free guidance.

    Raises `ValueError` for a loss that evaluates the network itself, or that has its own condition dropout.
    """

    losses: dict[str, AbstractLoss] = eqx.field(default_factory=dict)
    weights: dict[str, float] = eqx.field(default_factory=dict)
    times: AbstractTimes = Stratified()
    condition_dropout: ConditionDropout | None = None

    def __check_init__(self) -> None:
        for name, weight in self.weights.items():
            check_not_negative(f"weights[{name!r}]", weight)
        for name, loss in self.losses.items():
            if not isinstance(loss, Matching | CrossEntropy | GeneralisedKL | Hybrid):
                raise ValueError(
                    f"The network is evaluated once for all parts, at one state: the loss of part {name} must be "
                    f"Matching, CrossEntropy, GeneralisedKL or Hybrid, not {type(loss).__name__}."
                )
            if getattr(loss, "condition_dropout", None) is not None:
                raise ValueError(f"The loss of part {name} drops conditions; give condition_dropout to JointMatching.")

    def __call__(
        self,
        model: Any,
        t: Times,
        x0: Mapping[str, PyTree],
        x1: Mapping[str, Array],
        condition: Condition = None,
        *,
        key: KeyArray | None = None,
    ) -> Array:
        kept, key = drop_condition(self.condition_dropout, condition, key)
        check_names("losses", self.losses, model.parts)
        check_names("weights", self.weights, model.parts)
        names = sorted(model.parts)
        drawn = jnp.broadcast_to(t, (len(names),))
        if not model.separate_times and jnp.ndim(t):
            raise ValueError(
                "The times of this loss differ between parts, but the model has separate_times=False; use one "
                "distribution of times for all parts, or a model with separate_times=True."
            )
        parts = {name: model.parts[name] for name in names}
        own = {name: jnp.clip(drawn[i], part.t_min, part.t_max) for i, (name, part) in enumerate(parts.items())}
        x = {
            name: part.interpolant.interpolate(own[name], *in_single((x0[name], x1[name])))
            for name, part in parts.items()
        }
        x = {name: x[name].astype(x1[name].dtype) for name in names}
        outputs = model.outputs(own, x, kept, key=key)
        total = jnp.zeros((), time_dtype(model.dtype))
        for name in names:
            part = model.part_from_output(name, outputs)
            default = CrossEntropy() if isinstance(part, CategoricalModel) else Matching()
            value = self.losses.get(name, default)(part, own[name], x0[name], x1[name], condition)
            total = total + self.weights.get(name, 1.0) * value.astype(total.dtype)
        return total
