"""Sampling that unmasks an exact number of sites in each step, in an order chosen by the model or at random."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..._base.checks import check_count, check_not_negative
from ..._base.typing import Array, Condition, KeyArray, Tokens
from ..base import AbstractCategoricalModel, AbstractSingleEvaluationSampler, SamplerStep
from ..sites import draw
from .clean_tokens import log_tempered
from .masks import highest, mask_of, number_of_steps, size_of, time_of, times_of_shares
from .order import AbstractOrder, Confidence


class Unmask(AbstractSingleEvaluationSampler):
    r"""Draws a token for every masked site and keeps those that come first in `order`.

    If one site is unmasked per step, the model is exact and the order ignores the drawn tokens ([`RandomOrder`][],
    [`LeftToRight`][], [`Margin`][], [`Entropy`][]), then the events follow the joint distribution. Sites that are
    unmasked in the same step are drawn independently, which is an error; [`Confidence`][] adds a bias of its own.

    The time passed to the network is the one at which $\alpha$ equals the share of unmasked sites. Masked sites in
    `x0=` are filled in, and the tokens given there stay. An event without masks does not change. No mask remains at the
    end, even if the model's time interval ends before $t = 1$.
    """

    order: AbstractOrder
    per_step: tuple[int, ...] | int | None = eqx.field(static=True)
    temperature: float | Array

    def __init__(
        self,
        order: AbstractOrder | None = None,
        per_step: int | Sequence[int] | None = None,
        temperature: float | Array = 1.0,
    ):
        """**Arguments:**

        - `order`: which sites are unmasked first. Default: `Confidence()`.
        - `per_step`: how many sites to unmask in each step, either one number or a number for every step. It determines
            the number of steps: 5 sites at 2 per step take 3 steps. Default: the remaining masks are divided evenly
            over the remaining steps, of which there are `grid` (an argument of `sample`) or, without `grid`, one per
            site. Raises `ValueError` below 1.
        - `temperature`: the temperature of the tokens and of the probabilities passed to `order`. At 0 the most
            probable tokens are taken, and `order` receives the probabilities at temperature 1. Default: 1. Raises
            `ValueError` if negative.
        """
        self.order = Confidence() if order is None else order
        if per_step is not None and np.ndim(per_step) == 0:
            per_step = check_count("per_step", per_step)
        self.per_step = per_step if per_step is None or isinstance(per_step, int) else tuple(map(int, per_step))
        self.temperature = temperature
        check_not_negative("temperature", temperature)
        if per_step is not None and np.min(np.asarray(self.per_step), initial=1) < 1:
            raise ValueError(f"per_step must be at least 1; got {per_step}.")

    def times(self, model: AbstractCategoricalModel, grid: Any) -> Array:
        """The nominal times; raises `ValueError` without a mask, or if both `grid` and `per_step` are given."""
        mask_of(self, model)
        size = size_of(model)
        if self.per_step is None:
            steps = number_of_steps(self, grid, size)
            return times_of_shares(model, jnp.linspace(0, 1, steps + 1))
        if grid is not None:
            raise ValueError(f"per_step={self.per_step} determines the number of steps; leave out grid={grid!r}.")
        each = self.per_step
        counts = np.asarray((each,) * -(-size // each) if isinstance(each, int) else each)
        if counts.sum() < size:
            raise ValueError(f"per_step unmasks {counts.sum()} sites in all, but an event has {size} sites.")
        return times_of_shares(model, jnp.asarray(np.minimum(np.cumsum([0, *counts]) / size, 1)))

    def step(
        self, model: AbstractCategoricalModel, step: SamplerStep, x: Tokens, condition: Condition, key: KeyArray
    ) -> Tokens:
        masked = x == mask_of(self, model)
        order_key, token_key = jax.random.split(key)
        log_p = model.log_probabilities(time_of(model, masked), x, condition)
        tempered = log_tempered(log_p, self.temperature)
        tokens = draw(token_key, jnp.exp(tempered)).astype(x.dtype)
        greedy = isinstance(self.temperature, int | float) and self.temperature == 0
        score = self.order(order_key, log_p if greedy else tempered, tokens, step)
        # The lowest finite score, so that every masked site ranks above the unmasked ones.
        score = jnp.where(masked, jnp.maximum(score, jnp.finfo(score.dtype).min), -jnp.inf)
        return jnp.where(highest(score, self._number(step, masked)), tokens, x)

    def _number(self, step: SamplerStep, masked: Array) -> Array:
        """How many sites the step unmasks."""
        left = jnp.sum(masked, dtype=jnp.int32)
        if self.per_step is None:
            return -(-left // (step.count - step.index).astype(jnp.int32))
        if isinstance(self.per_step, int):
            return jnp.minimum(self.per_step, left)
        return jnp.minimum(jnp.asarray(self.per_step, jnp.int32)[step.index], left)
