"""Corrections between the steps of other moves: jumps that keep the law of the time they are made at."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._checks import check_not_negative
from .._typing import Array, Condition, KeyArray, Tokens
from ..abstract import AbstractCategoricalModel, AbstractMoves, Move
from ..interpolant import spread
from .draw import data_probabilities, draw
from .rates import at


class PredictorCorrector(AbstractMoves):
    r"""Every step of `predictor` is followed by corrections, which leave $p_t$ as it is.

    A correction draws a datum from $p(x_1 | x_t)$ and the site anew from $q_t(\cdot | x_1)$: to the datum, forwards, or
    to noise, backwards, as in Gat et al. (2024, section 3.3), here at the rates

    $$R(x \to j) = \eta\, [\alpha\, p(x_1 = j | x_t) + (1 - \alpha)\, \pi_j],$$

    which have a bound. Over the length of the step the kernel is known in closed form: it keeps the law of one site
    whatever its length, and that of several, which are drawn together, but for an error of second order in the
    probability of a change. There is no correction at the data.

    - `predictor`: any moves.
    - `num_corrections`: after each step, each with an evaluation of its own.
    - `stochasticity`: $\eta$, how often a site is drawn anew per unit of time, in each of the corrections.
    - `temperature`: of the probabilities of the data in the corrections.
    """

    predictor: AbstractMoves
    num_corrections: int = eqx.field(static=True, default=1)
    stochasticity: float | Array = 1.0
    temperature: float | Array = 1.0

    def __check_init__(self) -> None:
        if self.num_corrections < 1:
            raise ValueError(f"num_corrections must be at least one; got {self.num_corrections}.")
        check_not_negative("stochasticity", self.stochasticity)
        check_not_negative("temperature", self.temperature)

    @property
    def evaluations(self) -> int:
        return self.predictor.evaluations + self.num_corrections

    def times(self, model: AbstractCategoricalModel, grid: Any) -> Array:
        return self.predictor.times(model, grid)

    def correction(self, model: AbstractCategoricalModel, step: Move, x: Tokens, condition: Condition = None) -> Array:
        """Probabilities of every class after one correction at the end of the step, `(*shape, K)`."""
        p1 = data_probabilities(model, step.end, x, condition, self.temperature)
        dtype, schedule = p1.dtype, model.interpolant.schedule
        pi = model.prior.probabilities.astype(dtype)
        alpha, lost = schedule.alpha(step.end).astype(dtype), schedule.mask_probability(step.end).astype(dtype)
        expected = jnp.asarray(self.stochasticity, dtype) * (step.end - step.start).astype(dtype)
        expected = jnp.where(lost > 0, expected, 0)
        there = alpha * p1 + lost * spread(pi, p1.ndim)
        return jnp.where(at(x, p1.shape[-1]), jnp.exp(-expected), 0) - jnp.expm1(-expected) * there

    def move(
        self, model: AbstractCategoricalModel, step: Move, x: Tokens, condition: Condition, key: KeyArray
    ) -> Tokens:
        key, move_key = jax.random.split(key)

        def correct(i: Array, x: Tokens) -> Tokens:
            return draw(jax.random.fold_in(key, i), self.correction(model, step, x, condition))

        x = self.predictor.move(model, step, x, condition, move_key)
        return jax.lax.fori_loop(0, self.num_corrections, correct, x)
