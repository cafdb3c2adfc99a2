"""Masked diffusion in continuous time without discretisation error: one site at a time, at its own unmasking time."""

from typing import Any

import jax
import jax.numpy as jnp

from ..._base import random
from ..._base.checks import check_not_negative
from ..._base.typing import Array, Condition, KeyArray, Tokens
from ..base import AbstractCategoricalModel, AbstractSingleEvaluationSampler, SamplerStep
from ..sites import draw
from .clean_tokens import data_weights
from .masks import highest, mask_of, size_of, times_of_shares


class FirstHitting(AbstractSingleEvaluationSampler):
    r"""Unmasks one site per step, at the random time of the next unmasking event (Zheng et al. 2024).

    If $n$ sites are masked at time $s$, the first of them is unmasked at the time $t$ with
    $(1 - \alpha_t) / (1 - \alpha_s) = u^{1/n}$ for a uniform $u$, and each of them is equally likely to be the first.
    This is exactly the limit of [`Ancestral`][] with infinitely many steps, in as many steps as there are sites. For a
    network that ignores the time it has the same distribution as `Unmask(RandomOrder())`.

    **Reference:** [@zheng2025masked].

    - `temperature`: the temperature of the clean-token probabilities. Default: 1. Raises `ValueError` if negative.
    """

    temperature: float | Array = 1.0

    def __check_init__(self) -> None:
        check_not_negative("temperature", self.temperature)

    def times(self, model: AbstractCategoricalModel, grid: Any) -> Array:
        """The nominal times, one step per site; raises `ValueError` if `grid` is given."""
        mask_of(self, model)
        if grid is not None:
            raise ValueError(f"FirstHitting takes one step per site; leave out grid={grid!r}.")
        return times_of_shares(model, jnp.linspace(0, 1, size_of(model) + 1))

    def step(
        self, model: AbstractCategoricalModel, step: SamplerStep, x: Tokens, condition: Condition, key: KeyArray
    ) -> Tokens:
        masked = x == mask_of(self, model)
        where_key, token_key = jax.random.split(key)
        weights = data_weights(model, self.time(model, step, masked), x, condition, self.temperature)
        tokens = draw(token_key, weights).astype(x.dtype)
        score = jnp.where(masked, random.uniform(where_key, x.shape), -1)
        one = jnp.minimum(jnp.sum(masked, dtype=jnp.int32), 1)
        return jnp.where(highest(score, one), tokens, x)

    def time(self, model: AbstractCategoricalModel, step: SamplerStep, masked: Array) -> Array:
        """The time at which the next site is unmasked, from the sequence of times that all steps of a sample share."""
        if step.key is None:
            raise ValueError("FirstHitting draws its times from the key shared by all steps; pass key= to SamplerStep.")
        schedule, size = model.interpolant.schedule, masked.size
        waits = random.exponential(step.key, (size,), model.dtype)
        index, now = jnp.arange(size, dtype=jnp.int32), step.index.astype(jnp.int32)
        # The number of masked sites before each step up to this one.
        masks = jnp.sum(masked, dtype=jnp.int32) + now - index
        gone = jnp.where(index <= now, waits / jnp.maximum(masks, 1).astype(model.dtype), 0)
        lost = schedule.mask_probability(jnp.asarray(model.t_min, model.dtype)) * jnp.exp(-jnp.sum(gone))
        return times_of_shares(model, 1 - lost)
