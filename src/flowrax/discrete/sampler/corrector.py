"""Corrector steps between the steps of another sampler: jumps that leave the marginal at their time invariant."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ..._base.checks import check_not_negative, plain_int
from ..._base.typing import Array, Condition, KeyArray, Tokens
from ..base import AbstractCategoricalModel, AbstractSampler, SamplerStep
from ..sites import draw, spread
from .clean_tokens import data_probabilities


class CorrectorSampler(AbstractSampler):
    r"""Follows every step of `predictor` by corrector steps, which leave $p_t$ invariant.

    A corrector step draws a clean token from $p(x_1 | x_t)$ and then redraws the site from $q_t(\cdot | x_1)$. The site
    moves forwards, to the clean token, or backwards, to noise, as in Gat et al. (2024, section 3.3). The rates,

    $$R(x \to j) = \eta\, [\alpha\, p(x_1 = j | x_t) + (1 - \alpha)\, \pi_j],$$

    are bounded, and their transition kernel over a step has a closed form. The kernel leaves the distribution of a
    single site invariant for a step of any length. Several sites are redrawn independently, which leaves their joint
    distribution invariant up to an error of second order in the probability of a change. At the data, $t = 1$, there is
    no correction.

    - `predictor`: any sampler.
    - `num_corrections`: the number of corrector steps after each step, each with one evaluation of the network.
        Default: 1. Raises `ValueError` below 1.
    - `stochasticity`: $\eta$, the rate in each corrector step at which a site is redrawn, per unit of time. Default: 1.
    - `temperature`: the temperature of the clean-token probabilities in the corrector steps. Default: 1.

    Raises `ValueError` for a negative `stochasticity` or `temperature`.
    """

    predictor: AbstractSampler
    num_corrections: int = eqx.field(static=True, converter=plain_int, default=1)
    stochasticity: float | Array = 1.0
    temperature: float | Array = 1.0

    def __check_init__(self) -> None:
        if self.num_corrections < 1:
            raise ValueError(f"num_corrections must be at least one; got {self.num_corrections}.")
        check_not_negative("stochasticity", self.stochasticity)
        check_not_negative("temperature", self.temperature)

    @property
    def num_evaluations_per_step(self) -> int:
        return self.predictor.num_evaluations_per_step + self.num_corrections

    def times(self, model: AbstractCategoricalModel, grid: Any) -> Array:
        return self.predictor.times(model, grid)

    def correction(
        self, model: AbstractCategoricalModel, step: SamplerStep, x: Tokens, condition: Condition = None
    ) -> Array:
        """The probability of every class after one corrector step at the end of the step, `(*shape, K)`."""
        p1 = data_probabilities(model, step.end, x, condition, self.temperature)
        dtype, schedule = p1.dtype, model.interpolant.schedule
        pi = model.prior.probabilities.astype(dtype)
        alpha, lost = schedule.alpha(step.end).astype(dtype), schedule.mask_probability(step.end).astype(dtype)
        expected = jnp.asarray(self.stochasticity, dtype) * (step.end - step.start).astype(dtype)
        expected = jnp.where(lost > 0, expected, 0)
        there = alpha * p1 + lost * spread(pi, p1.ndim)
        return (
            jnp.where(jax.nn.one_hot(x, p1.shape[-1], dtype=bool), jnp.exp(-expected), 0) - jnp.expm1(-expected) * there
        )

    def step(
        self, model: AbstractCategoricalModel, step: SamplerStep, x: Tokens, condition: Condition, key: KeyArray
    ) -> Tokens:
        key, move_key = jax.random.split(key)

        def correct(i: Array, x: Tokens) -> Tokens:
            return draw(jax.random.fold_in(key, i), self.correction(model, step, x, condition))

        x = self.predictor.step(model, step, x, condition, move_key)
        return jax.lax.fori_loop(0, self.num_corrections, correct, x)
