"""Masked diffusion in continuous time without an error of steps: one token at a time, at the time at which it falls."""

from typing import Any

import jax
import jax.numpy as jnp

from .._checks import check_not_negative
from .._typing import Array, Condition, KeyArray, Tokens
from ..abstract import AbstractCategoricalModel, AbstractMoves, Move
from .draw import data_weights, draw
from .masks import highest, mask_of, size_of, times_of_shares


class FirstHitting(AbstractMoves):
    r"""Lifts one mask in each step at the random time at which the next of them is lifted (Zheng et al. 2024).

    Of $n$ masks at time $s$ the first is lifted at $t$ with $(1 - \alpha_t) / (1 - \alpha_s) = u^{1/n}$ for a uniform
    $u$, and it is any of them: the limit of [`Ancestral`][] with ever more steps, in as many as there are sites,
    exactly. A network that does not see the time has the law of `Unmask(RandomOrder())`.

    **Reference:** [@zheng2025masked].
    """

    temperature: float | Array = 1.0

    def __check_init__(self) -> None:
        check_not_negative("temperature", self.temperature)

    @property
    def evaluations(self) -> int:
        return 1

    def times(self, model: AbstractCategoricalModel, grid: Any) -> Array:
        """Nominal times, one step for each site; raises `ValueError` for a grid, which it does not take."""
        mask_of(self, model)
        if grid is not None:
            raise ValueError(f"FirstHitting takes one step for each site; leave out grid={grid!r}.")
        return times_of_shares(model, jnp.linspace(0, 1, size_of(model) + 1))

    def move(
        self, model: AbstractCategoricalModel, step: Move, x: Tokens, condition: Condition, key: KeyArray
    ) -> Tokens:
        masked = x == mask_of(self, model)
        where_key, token_key = jax.random.split(key)
        weights = data_weights(model, self.time(model, step, masked), x, condition, self.temperature)
        tokens = draw(token_key, weights).astype(x.dtype)
        score = jnp.where(masked, jax.random.uniform(where_key, x.shape), -1)
        one = jnp.minimum(jnp.sum(masked, dtype=jnp.int32), 1)
        return jnp.where(highest(score, one), tokens, x)

    def time(self, model: AbstractCategoricalModel, step: Move, masked: Array) -> Array:
        """When the next of those masks is lifted: all steps of a sample see one sequence of such times."""
        if step.key is None:
            raise ValueError("FirstHitting draws its times from the key that all steps share; give Move a key.")
        schedule, size = model.interpolant.schedule, masked.size
        waits = jax.random.exponential(step.key, (size,), model.dtype)
        index, now = jnp.arange(size, dtype=jnp.int32), step.index.astype(jnp.int32)
        # Masks before each of the steps until this one.
        masks = jnp.sum(masked, dtype=jnp.int32) + now - index
        gone = jnp.where(index <= now, waits / jnp.maximum(masks, 1).astype(model.dtype), 0)
        lost = schedule.mask_probability(jnp.asarray(model.t_min, model.dtype)) * jnp.exp(-jnp.sum(gone))
        return times_of_shares(model, 1 - lost)
