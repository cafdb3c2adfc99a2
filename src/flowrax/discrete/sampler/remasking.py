r"""Remasking: each step masks some unmasked tokens again, and unmasks as many masked sites in addition.

From $s$ to $t$, with $m = 1 - \alpha$ (Wang et al. 2025, eq. 5),

$$x_s \text{ unmasked: masked again with probability } \sigma, \qquad
x_s \text{ masked: unmasked with probability } \frac{\alpha_t - (1 - \sigma)\, \alpha_s}{1 - \alpha_s}
= \frac{m_s - m_t + \sigma \alpha_s}{m_s},$$

so that the expected share of unmasked sites is $\alpha_t$ for every $0 \le \sigma \le \min(1, m_t / \alpha_s)$.
"""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ..._base import random
from ..._base.arguments import Checked
from ..._base.checks import (
    check_between,
    check_fraction,
    check_grid,
    check_increasing,
    check_not_negative,
)
from ..._base.typing import Array, Condition, KeyArray, Tokens
from ..base import AbstractCategoricalModel, AbstractSingleEvaluationSampler, SamplerStep
from ..sites import draw, spread
from .ancestral import even_times
from .clean_tokens import data_probabilities
from .masks import given_of, mask_of


class AbstractRemasking(eqx.Module, metaclass=Checked):
    r"""The remasking probability $\sigma$ of each step."""

    @abc.abstractmethod
    def times(self, model: AbstractCategoricalModel, grid: Any) -> Array:
        """The times of the steps, `(k + 1,)`; `grid` is the argument of `sample`."""

    @abc.abstractmethod
    def amount(self, step: SamplerStep, known: Array, lost: Array) -> Array:
        r"""$\sigma \alpha_s$, at most `lost`, where `known` is $\alpha_s$ and `lost` is $m_t$."""


class CappedRemasking(AbstractRemasking):
    r"""$\sigma = \min(\eta, m_t / \alpha_s)$."""

    eta: float | Array

    def __check_init__(self) -> None:
        check_fraction("eta", self.eta)

    def times(self, model: AbstractCategoricalModel, grid: Any) -> Array:
        return even_times(model, grid)

    def amount(self, step: SamplerStep, known: Array, lost: Array) -> Array:
        return jnp.minimum(self.eta * known, lost)


class RescaledRemasking(AbstractRemasking):
    r"""$\sigma = \eta \min(1, m_t / \alpha_s)$."""

    eta: float | Array

    def __check_init__(self) -> None:
        check_fraction("eta", self.eta)

    def times(self, model: AbstractCategoricalModel, grid: Any) -> Array:
        return even_times(model, grid)

    def amount(self, step: SamplerStep, known: Array, lost: Array) -> Array:
        return self.eta * jnp.minimum(known, lost)


class Loop(AbstractRemasking):
    r"""Remasks only in a loop at a fixed time, where as many sites are masked as are unmasked on average.

    The steps between the fractions `begin` and `end` of all steps stay at the time `hold`. The steps before them lead
    from the noise to `hold`, and the steps after them from `hold` to the data.
    """

    inner: AbstractRemasking
    hold: float
    begin: float
    end: float

    def __init__(self, inner: AbstractRemasking, hold: float = 0.9, begin: float = 0.45, end: float = 0.95):
        """**Arguments:**

        - `inner`: the remasking probability in the loop, [`CappedRemasking`][] or [`RescaledRemasking`][].
        - `hold`: the time of the loop. Default: 0.9.
        - `begin`, `end`: the fractions of the steps at which the loop begins and ends. Defaults: 0.45 and 0.95. Raises
            `ValueError` unless `0 < hold < 1` and `0 < begin < end < 1`.
        """
        for name, value in (("hold", hold), ("begin", begin), ("end", end)):
            check_between(name, value, 0.0, 1.0)
        check_increasing("begin", begin, "end", end)
        self.inner, self.hold, self.begin, self.end = inner, hold, begin, end

    def times(self, model: AbstractCategoricalModel, grid: Any) -> Array:
        """The times of a number of steps. Explicit times are returned as they are; a repeated time is a loop there."""
        if grid is not None and check_grid(grid) is None:
            return jnp.asarray(grid)
        if not model.t_min < self.hold < model.t_max:
            raise ValueError(f"Loop holds at {self.hold}, outside the model's times {model.t_min} to {model.t_max}.")
        share = (even_times(model, grid) - model.t_min) / (model.t_max - model.t_min)
        corners = jnp.asarray([0, self.begin, self.end, 1], share.dtype)
        return jnp.interp(share, corners, jnp.asarray([model.t_min, self.hold, self.hold, model.t_max], share.dtype))

    def amount(self, step: SamplerStep, known: Array, lost: Array) -> Array:
        return jnp.where(step.start == step.end, self.inner.amount(step, known, lost), 0)


class Remasking(AbstractSingleEvaluationSampler):
    r"""Ancestral sampling of masked diffusion in which unmasked tokens may be masked again (ReMDM, Wang et al. 2025).

    Every site has the correct marginal at every time, as in [`Ancestral`][], and an early mistake can be corrected. The
    error made by unmasking several sites in one step decreases with the number of steps `k` if $\sigma$ decreases
    too, as in `CappedRemasking(c / k)`.

    **Reference:** [@wang2025remasking].

    - `remasking`: the remasking probability, [`CappedRemasking`][], [`RescaledRemasking`][] or [`Loop`][].
    - `temperature`: the temperature of the clean-token probabilities. Default: 1. Raises `ValueError` if negative.
    """

    remasking: AbstractRemasking
    temperature: float | Array = 1.0
    keep_given: bool = eqx.field(static=True, default=True)
    """Whether the tokens given in `x0=` stay fixed. Default: True."""

    def __check_init__(self) -> None:
        check_not_negative("temperature", self.temperature)

    def times(self, model: AbstractCategoricalModel, grid: Any) -> Array:
        mask_of(self, model)
        return self.remasking.times(model, grid)

    def probabilities(
        self, model: AbstractCategoricalModel, step: SamplerStep, x: Tokens, condition: Condition = None
    ) -> Array:
        """The probability of every class after the step, `(*shape, K)`."""
        mask, (p1, change) = mask_of(self, model), self._law(model, step, x, condition)
        masks = spread(jax.nn.one_hot(mask, p1.shape[-1], dtype=p1.dtype), p1.ndim)
        here = jax.nn.one_hot(x, p1.shape[-1], dtype=p1.dtype)
        other = jnp.where((x == mask)[..., None], p1, masks)
        return (1 - change)[..., None] * here + change[..., None] * other

    def step(
        self, model: AbstractCategoricalModel, step: SamplerStep, x: Tokens, condition: Condition, key: KeyArray
    ) -> Tokens:
        mask, (p1, change) = mask_of(self, model), self._law(model, step, x, condition)
        when_key, token_key = jax.random.split(key)
        tokens = jnp.where(x == mask, draw(token_key, p1).astype(x.dtype), mask)
        return jnp.where(random.uniform(when_key, x.shape, change.dtype) < change, tokens, x)

    def _law(
        self, model: AbstractCategoricalModel, step: SamplerStep, x: Tokens, condition: Condition
    ) -> tuple[Array, Array]:
        """The clean-token probabilities, and the probability that each site changes."""
        mask, schedule = mask_of(self, model), model.interpolant.schedule
        p1 = data_probabilities(model, step.start, x, condition, self.temperature)
        known, lost = schedule.alpha(step.start), schedule.mask_probability(step.end)
        amount = self.remasking.amount(step, known, lost)
        lost_before = schedule.mask_probability(step.start)
        lift = (lost_before - (lost - amount)) / lost_before
        again = amount / jnp.where(known > 0, known, 1)
        change = jnp.where(x == mask, lift, again).astype(p1.dtype)
        # A failed site (-1) stays failed.
        change = jnp.where(x < 0, 0, change)
        if self.keep_given:
            change = jnp.where(given_of(step.first, mask, x.shape), 0, change)
        return p1, change
