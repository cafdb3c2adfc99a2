"""Moves by jumps at the rates of the mixture path: Euler's, tau-leaping, and the jump that is drawn exactly."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._checks import check_not_negative
from .._typing import Array, Condition, KeyArray, Tokens
from ..abstract import AbstractCategoricalModel, AbstractMoves, Move
from .ancestral import even_times
from .draw import data_probabilities, draw
from .rates import AbstractRateGuide, at, guided_jumps, jump_rates


class AbstractSiteMoves(AbstractMoves):
    """Moves in which sites change each for itself, by probabilities that the state before the step gives them."""

    @abc.abstractmethod
    def probabilities(
        self, model: AbstractCategoricalModel, step: Move, x: Tokens, condition: Condition = None
    ) -> Array:
        """Of every class after the step, `(*shape, K)`; they sum to one."""

    @property
    def evaluations(self) -> int:
        return 1

    def times(self, model: AbstractCategoricalModel, grid: Any) -> Array:
        return even_times(model, grid)

    def move(
        self, model: AbstractCategoricalModel, step: Move, x: Tokens, condition: Condition, key: KeyArray
    ) -> Tokens:
        return draw(key, self.probabilities(model, step, x, condition))


class AbstractRateMoves(AbstractSiteMoves):
    """Moves by [`jump_rates`][] held over the step: a site jumps at most once, where its rates lead it.

    In a step to where no noise is left the rates have no bound, and every site goes to its datum.
    """

    stochasticity: eqx.AbstractVar[float | Array]
    temperature: eqx.AbstractVar[float | Array]
    guide: eqx.AbstractVar[AbstractRateGuide | None]

    @abc.abstractmethod
    def chance(self, expected: Array) -> Array:
        """The probability that a site jumps where so many jumps are expected in the step."""

    def probabilities(
        self, model: AbstractCategoricalModel, step: Move, x: Tokens, condition: Condition = None
    ) -> Array:
        p1 = data_probabilities(model, step.start, x, condition, self.temperature)
        here = at(x, p1.shape[-1])
        time, last = (step.end - step.start).astype(p1.dtype), p1
        if self.guide is None:
            where = jump_rates(model, step.start, x, p1, self.stochasticity)
        else:
            factor = jnp.exp(self.guide.log_factor(model, step.start, x, condition).astype(p1.dtype))
            where, speed = guided_jumps(model, step.start, x, p1, factor, self.stochasticity)
            time = time * speed
            # A jump that cannot be needs no factor, which may not be a number there.
            last = jnp.where(here, p1, jnp.where(p1 == 0, 0, p1 * factor))
            last = last / jnp.sum(last, axis=-1, keepdims=True)
        total = jnp.sum(where, axis=-1, keepdims=True)
        chance = self.chance(jnp.where(total == 0, 0, time * total))
        row = jnp.where(here, 1 - chance, where * (chance / jnp.where(total == 0, 1, total)))
        return jnp.where(model.interpolant.schedule.mask_probability(step.end) > 0, row, last)


class Euler(AbstractRateMoves):
    r"""Euler's steps of the jumps: the probability of each is its rate times the step.

    Exact to first order in the steps. Where more than one jump is expected the site certainly jumps, in proportion to
    the rates.

    - `stochasticity`: $\eta$ of [`jump_rates`][]: more noise and more chances to mend what was drawn, at the same law.
    - `temperature`: of the probabilities of the data; 0 takes the most probable class.
    - `guide`: that multiplies the rates of [`guided_jumps`][]: `LikelihoodRatio`, `FirstOrderRatio`.
    """

    stochasticity: float | Array = 0.0
    temperature: float | Array = 1.0
    guide: AbstractRateGuide | None = None

    def __check_init__(self) -> None:
        check_not_negative("stochasticity", self.stochasticity)
        check_not_negative("temperature", self.temperature)

    def chance(self, expected: Array) -> Array:
        return jnp.minimum(expected, 1)


class TauLeaping(AbstractRateMoves):
    r"""Numbers of jumps from Poisson's law at the rates before the step; of several in one site the first counts.

    The first of several is where the site goes with probability $(1 - e^{-n})$ for `n` jumps expected. Classes have no
    sum, so that Campbell et al. (2022, section 4.3) refuse a change by more than one jump; then a site with high rates,
    as all have near the data, would not move at all. Both agree to first order in the steps. Options as in [`Euler`][].

    **Reference:** [@campbell2022continuous].
    """

    stochasticity: float | Array = 0.0
    temperature: float | Array = 1.0
    guide: AbstractRateGuide | None = None

    def __check_init__(self) -> None:
        check_not_negative("stochasticity", self.stochasticity)
        check_not_negative("temperature", self.temperature)

    def chance(self, expected: Array) -> Array:
        return -jnp.expm1(-expected)


class MixtureJump(AbstractSiteMoves):
    r"""A datum is drawn for each site, which jumps to it with the probability of a jump there within the step.

    That is $(\alpha_t - \alpha_s) / (1 - \alpha_s)$, the integral of the rate for any schedule. One site under a prior
    of masks has the exact law in any steps; otherwise the law is exact to first order. One step to the data draws all
    of them at once, and with `temperature=0` takes the most probable.
    """

    temperature: float | Array = 1.0

    def __check_init__(self) -> None:
        check_not_negative("temperature", self.temperature)

    def probabilities(
        self, model: AbstractCategoricalModel, step: Move, x: Tokens, condition: Condition = None
    ) -> Array:
        p1 = data_probabilities(model, step.start, x, condition, self.temperature)
        schedule = model.interpolant.schedule
        kept = (schedule.mask_probability(step.end) / schedule.mask_probability(step.start)).astype(p1.dtype)
        return (1 - kept) * p1 + kept * jax.nn.one_hot(x, p1.shape[-1], dtype=p1.dtype)
