"""Purity sampling: unmasks the sites where the model is most confident."""

from typing import Any

import jax
import jax.numpy as jnp

from ..._base import random
from ..._base.checks import check_not_negative
from ..._base.typing import Array, Condition, KeyArray, Tokens
from ..base import AbstractCategoricalModel, AbstractSingleEvaluationSampler, SamplerStep
from ..sites import draw
from .ancestral import even_times
from .clean_tokens import log_tempered
from .masks import highest, mask_of


class Purity(AbstractSingleEvaluationSampler):
    r"""Unmasks as many sites as [`Euler`][] would, but those where the model is most confident.

    The number of sites to unmask is binomial: each masked site counts with probability
    $\min(1, \Delta t\, (\dot\alpha + \eta \alpha) / (1 - \alpha))$. The masked sites with the highest probability of
    their most probable class are unmasked. Tokens that were unmasked before the step are masked again with probability
    $\eta \Delta t$, except in the last step, which leaves no mask. The order depends only on the state before the
    step, so with an exact model and $\eta = 0$ the error is of first order in the step; with $\eta > 0$ a bias remains.

    **Reference:** [@tang2022improved].

    - `stochasticity`: $\eta$, the rate of remasking. Default: 0.
    - `temperature`: the temperature of the drawn classes; the order uses temperature 1. Default: 1.

    Raises `ValueError` for a negative `stochasticity` or `temperature`.
    """

    stochasticity: float | Array = 0.0
    temperature: float | Array = 1.0

    def __check_init__(self) -> None:
        check_not_negative("stochasticity", self.stochasticity)
        check_not_negative("temperature", self.temperature)

    def times(self, model: AbstractCategoricalModel, grid: Any) -> Array:
        """The times of `grid`, as in [`even_times`][]; raises `ValueError` if the prior has no mask."""
        mask_of(self, model)
        return even_times(model, grid)

    def chances(self, model: AbstractCategoricalModel, step: SamplerStep) -> tuple[Array, Array]:
        """The probability that a site is unmasked in the step, and the probability that a token is masked again."""
        schedule = model.interpolant.schedule
        eta = jnp.asarray(self.stochasticity, step.start.dtype)
        width, lost = step.end - step.start, schedule.mask_probability(step.start)
        rate = (schedule.alpha_rate(step.start) + eta * schedule.alpha(step.start)) / lost
        last = schedule.mask_probability(step.end) == 0
        return jnp.where(last, 1, jnp.minimum(width * rate, 1)), jnp.where(last, 0, jnp.minimum(width * eta, 1))

    def step(
        self, model: AbstractCategoricalModel, step: SamplerStep, x: Tokens, condition: Condition, key: KeyArray
    ) -> Tokens:
        number_key, what_key, back_key = jax.random.split(key, 3)
        log_p = model.log_probabilities(step.start, x, condition)
        lift, back = self.chances(model, step)
        mask = mask_of(self, model)
        masked = x == mask
        number = jnp.sum(masked & (random.uniform(number_key, x.shape, lift.dtype) < lift), dtype=jnp.int32)
        surest = highest(jnp.where(masked, jnp.max(log_p, axis=-1), -jnp.inf), number)
        new = draw(what_key, jnp.exp(log_tempered(log_p, self.temperature)))
        again = ~masked & (random.uniform(back_key, x.shape, back.dtype) < back)
        return jnp.where(surest, new, jnp.where(again, mask, x))
