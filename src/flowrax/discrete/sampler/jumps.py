"""Samplers that jump at the rates of the mixture path: Euler steps, tau-leaping and the exact jump of one site."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ..._base.checks import check_not_negative
from ..._base.typing import Array, Condition, KeyArray, Tokens
from ..base import AbstractCategoricalModel, AbstractSingleEvaluationSampler, SamplerStep
from ..sites import draw
from .ancestral import even_times
from .clean_tokens import data_probabilities
from .rates import AbstractRateGuide, guided_jumps, jump_rates


class AbstractSiteSampler(AbstractSingleEvaluationSampler):
    """Samplers whose sites change independently in each step, given the state at its start."""

    @abc.abstractmethod
    def probabilities(
        self, model: AbstractCategoricalModel, step: SamplerStep, x: Tokens, condition: Condition = None
    ) -> Array:
        """The probability of every class after the step, `(*shape, K)`; the last axis sums to one."""

    def times(self, model: AbstractCategoricalModel, grid: Any) -> Array:
        return even_times(model, grid)

    def step(
        self, model: AbstractCategoricalModel, step: SamplerStep, x: Tokens, condition: Condition, key: KeyArray
    ) -> Tokens:
        return draw(key, self.probabilities(model, step, x, condition))


class AbstractRateSampler(AbstractSiteSampler):
    """Samplers that hold [`jump_rates`][] fixed over each step and let every site jump at most once.

    The class after a jump is drawn in proportion to the rates. The rates are unbounded in the step that ends at the
    data; there every site draws its clean token instead.
    """

    stochasticity: eqx.AbstractVar[float | Array]
    temperature: eqx.AbstractVar[float | Array]
    guide: eqx.AbstractVar[AbstractRateGuide | None]

    def __check_init__(self) -> None:
        check_not_negative("stochasticity", self.stochasticity)
        check_not_negative("temperature", self.temperature)

    @abc.abstractmethod
    def jump_probability(self, expected: Array) -> Array:
        """The probability that a site jumps, from the number of jumps expected in the step."""

    def probabilities(
        self, model: AbstractCategoricalModel, step: SamplerStep, x: Tokens, condition: Condition = None
    ) -> Array:
        p1 = data_probabilities(model, step.start, x, condition, self.temperature)
        here = jax.nn.one_hot(x, p1.shape[-1], dtype=bool)
        time, last = (step.end - step.start).astype(p1.dtype), p1
        if self.guide is None:
            where = jump_rates(model, step.start, x, p1, self.stochasticity)
        else:
            factor = jnp.exp(self.guide.log_factor(model, step.start, x, condition).astype(p1.dtype))
            where, speed = guided_jumps(model, step.start, x, p1, factor, self.stochasticity)
            time = time * speed
            # The factor may be NaN at an impossible jump, so mask it there.
            last = jnp.where(here, p1, jnp.where(p1 == 0, 0, p1 * factor))
            last = last / jnp.sum(last, axis=-1, keepdims=True)
        total = jnp.sum(where, axis=-1, keepdims=True)
        probability = self.jump_probability(jnp.where(total == 0, 0, time * total))
        row = jnp.where(here, 1 - probability, where * (probability / jnp.where(total == 0, 1, total)))
        return jnp.where(model.interpolant.schedule.mask_probability(step.end) > 0, row, last)


class Euler(AbstractRateSampler):
    r"""Euler steps of the jump process: the probability of each jump is its rate times the length of the step.

    The error is of first order in the step. A site that expects more than one jump jumps with certainty, to a class
    drawn in proportion to the rates.

    - `stochasticity`: $\eta$ of [`jump_rates`][], which adds noise and chances to correct earlier tokens while leaving
        the marginal distributions unchanged. Default: 0.
    - `temperature`: the temperature of the clean-token probabilities; 0 takes the most probable class. Default: 1.
    - `guide`: multiplies the rates of [`guided_jumps`][], for example `LikelihoodRatio` or `FirstOrderRatio`. Default:
        None, no guidance.

    Raises `ValueError` for a negative `stochasticity` or `temperature`.
    """

    stochasticity: float | Array = 0.0
    temperature: float | Array = 1.0
    guide: AbstractRateGuide | None = None

    def jump_probability(self, expected: Array) -> Array:
        return jnp.minimum(expected, 1)


class TauLeaping(AbstractRateSampler):
    r"""Draws Poisson jump counts using rates frozen at the start of the step; only the first jump of a site is applied.

    A site that expects $n$ jumps therefore jumps with probability $1 - e^{-n}$. Several jumps cannot be added up,
    because classes have no order, so Campbell et al. (2022, section 4.3) reject every change by more than one jump.
    With that rule a site with high rates, as all sites have near the data, would never change. Both rules agree to
    first order in the step. The options are those of [`Euler`][].

    **Reference:** [@campbell2022continuous].
    """

    stochasticity: float | Array = 0.0
    temperature: float | Array = 1.0
    guide: AbstractRateGuide | None = None

    def jump_probability(self, expected: Array) -> Array:
        return -jnp.expm1(-expected)


class MixtureJump(AbstractSiteSampler):
    r"""Draws a clean token for each site and jumps to it with the exact probability of a jump within the step.

    From $s$ to $t$ that probability is $(\alpha_t - \alpha_s) / (1 - \alpha_s)$, the integral of the rate for any
    schedule. A single site under a masking prior has the exact distribution for any number of steps; in all other cases
    the error is of first order in the step. One step from noise to data draws all sites at once, and takes the most
    probable classes if `temperature=0`.

    - `temperature`: the temperature of the clean-token probabilities. Default: 1. Raises `ValueError` if negative.
    """

    temperature: float | Array = 1.0

    def __check_init__(self) -> None:
        check_not_negative("temperature", self.temperature)

    def probabilities(
        self, model: AbstractCategoricalModel, step: SamplerStep, x: Tokens, condition: Condition = None
    ) -> Array:
        p1 = data_probabilities(model, step.start, x, condition, self.temperature)
        schedule = model.interpolant.schedule
        kept = (schedule.mask_probability(step.end) / schedule.mask_probability(step.start)).astype(p1.dtype)
        return (1 - kept) * p1 + kept * jax.nn.one_hot(x, p1.shape[-1], dtype=p1.dtype)
