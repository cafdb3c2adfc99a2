"""Sampling by lifting an exact number of masks in each step, in an order that the model or chance decides."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._checks import check_not_negative
from .._typing import Array, Condition, KeyArray, Tokens
from ..abstract import AbstractCategoricalModel, AbstractMoves, Move
from .draw import draw, log_tempered
from .masks import highest, mask_of, number_of_steps, size_of, time_of, times_of_shares
from .order import AbstractOrder, Confidence


class Unmask(AbstractMoves):
    r"""Draws a token for every mask, and lifts those that come first in `order`.

    With one token in each step, an exact model and an order that does not look at the tokens drawn ([`RandomOrder`][],
    [`LeftToRight`][], [`Margin`][], [`Entropy`][]), events are draws of the joint law. Tokens that are lifted together
    are drawn each for itself; [`Confidence`][] is biased besides.

    The network is given the time at which $\alpha$ is the share of the sites that are known. Masks among the tokens of
    `x0=` are filled in and what is known there stays. A row without masks rests. No mask is left at the end, wherever
    the model's interval of time ends.
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

        - `order`: which masks are lifted first; [`Confidence`][] without.
        - `per_step`: how many in each step, or a number for each of the steps, which decides their number: 5 sites by
            2 are 3 steps. Without it, the masks that are there are divided evenly over the steps that are left:
            `sample`'s `grid` of them, and one for each site where there is no grid. Raises `ValueError` below 1.
        - `temperature`: of the tokens, and of the probabilities in `order`; at 0 tokens are the most probable and the
            order sees the probabilities as they are. Not negative, or `ValueError`.
        """
        self.order = Confidence() if order is None else order
        self.per_step = per_step if per_step is None or isinstance(per_step, int) else tuple(map(int, per_step))
        self.temperature = temperature
        check_not_negative("temperature", temperature)
        if per_step is not None and np.min(np.asarray(self.per_step), initial=1) < 1:
            raise ValueError(f"per_step must be at least 1; got {per_step}.")

    @property
    def evaluations(self) -> int:
        return 1

    def times(self, model: AbstractCategoricalModel, grid: Any) -> Array:
        """The nominal times of the steps; raises `ValueError` without a mask, or where both it and `per_step` count."""
        mask_of(self, model)
        size = size_of(model)
        if self.per_step is None:
            steps = number_of_steps(self, grid, size)
            return times_of_shares(model, jnp.linspace(0, 1, steps + 1))
        if grid is not None:
            raise ValueError(f"per_step={self.per_step} decides the number of steps; leave out grid={grid!r}.")
        each = self.per_step
        counts = np.asarray((each,) * -(-size // each) if isinstance(each, int) else each)
        if counts.sum() < size:
            raise ValueError(f"per_step lifts {counts.sum()} masks in all, and an event has {size} sites.")
        return times_of_shares(model, jnp.asarray(np.minimum(np.cumsum([0, *counts]) / size, 1)))

    def move(
        self, model: AbstractCategoricalModel, step: Move, x: Tokens, condition: Condition, key: KeyArray
    ) -> Tokens:
        masked = x == mask_of(self, model)
        order_key, token_key = jax.random.split(key)
        log_p = model.log_probabilities(time_of(model, masked), x, condition)
        tempered = log_tempered(log_p, self.temperature)
        tokens = draw(token_key, jnp.exp(tempered)).astype(x.dtype)
        greedy = isinstance(self.temperature, int | float) and self.temperature == 0
        score = self.order(order_key, log_p if greedy else tempered, tokens, step)
        # The least that is not minus infinity: a mask stays before what is none.
        score = jnp.where(masked, jnp.maximum(score, jnp.finfo(score.dtype).min), -jnp.inf)
        return jnp.where(highest(score, self._number(step, masked)), tokens, x)

    def _number(self, step: Move, masked: Array) -> Array:
        """How many masks the step lifts."""
        left = jnp.sum(masked, dtype=jnp.int32)
        if self.per_step is None:
            return -(-left // (step.count - step.index).astype(jnp.int32))
        if isinstance(self.per_step, int):
            return jnp.minimum(self.per_step, left)
        return jnp.minimum(jnp.asarray(self.per_step, jnp.int32)[step.index], left)
