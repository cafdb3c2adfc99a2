r"""Remasking: a step back to the mask for some of the known tokens, and as many more steps forward for the masks.

From $s$ to $t$, with $m = 1 - \alpha$ (Wang et al. 2025, eq. 5)

$$x_s \text{ known: masked again with probability } \sigma, \qquad
x_s \text{ masked: lifted with probability } \frac{\alpha_t - (1 - \sigma)\, \alpha_s}{1 - \alpha_s}
= \frac{m_s - m_t + \sigma \alpha_s}{m_s},$$

so that $\alpha_t$ of the sites are known, whatever $0 \le \sigma \le \min(1, m_t / \alpha_s)$.
"""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._checks import check_fraction, check_not_negative
from .._typing import Array, Condition, KeyArray, Tokens
from ..abstract import AbstractCategoricalModel, AbstractMoves, Move
from ..interpolant import spread
from .ancestral import even_times
from .draw import data_probabilities, draw
from .masks import given_of, mask_of


class AbstractRemasking(eqx.Module):
    r"""How much is masked again."""

    @abc.abstractmethod
    def times(self, model: AbstractCategoricalModel, grid: Any) -> Array:
        """Of the steps."""

    @abc.abstractmethod
    def amount(self, step: Move, known: Array, lost: Array) -> Array:
        r"""$\sigma \alpha_s$, at most `lost`, where `known` is $\alpha_s$ and `lost` is $m_t$."""


class Capped(AbstractRemasking):
    r"""$\sigma = \min(\eta, m_t / \alpha_s)$."""

    eta: float | Array

    def __check_init__(self) -> None:
        check_fraction("eta", self.eta)

    def times(self, model: AbstractCategoricalModel, grid: Any) -> Array:
        return even_times(model, grid)

    def amount(self, step: Move, known: Array, lost: Array) -> Array:
        return jnp.minimum(self.eta * known, lost)


class Rescaled(AbstractRemasking):
    r"""$\sigma = \eta \min(1, m_t / \alpha_s)$."""

    eta: float | Array

    def __check_init__(self) -> None:
        check_fraction("eta", self.eta)

    def times(self, model: AbstractCategoricalModel, grid: Any) -> Array:
        return even_times(model, grid)

    def amount(self, step: Move, known: Array, lost: Array) -> Array:
        return self.eta * jnp.minimum(known, lost)


class Loop(AbstractRemasking):
    r"""No remasking but in a loop at one time, where as much is masked as is lifted.

    The steps between the shares `begin` and `end` of all of them stay at the time `hold`; the others lead there from
    the noise and from there to the data.
    """

    inner: AbstractRemasking
    hold: float
    begin: float
    end: float

    def __init__(self, inner: AbstractRemasking, hold: float = 0.9, begin: float = 0.45, end: float = 0.95):
        """**Arguments:**

        - `inner`: how much is masked in the loop, [`Capped`][] or [`Rescaled`][].
        - `hold`: its time.
        - `begin`, `end`: which of the steps it has. Raises `ValueError` unless `0 < hold < 1` and
            `0 < begin < end < 1`.
        """
        if not (0 < hold < 1 and 0 < begin < end < 1):
            raise ValueError(f"Loop needs 0 < hold < 1 and 0 < begin < end < 1; got {hold}, {begin}, {end}.")
        self.inner, self.hold, self.begin, self.end = inner, hold, begin, end

    def times(self, model: AbstractCategoricalModel, grid: Any) -> Array:
        """Those of a number of steps; times of one's own loop where one of them is repeated."""
        if grid is not None and not isinstance(grid, int):
            return jnp.asarray(grid)
        if not model.t_min < self.hold < model.t_max:
            raise ValueError(f"Loop holds at {self.hold}, outside the model's times {model.t_min} to {model.t_max}.")
        share = (even_times(model, grid) - model.t_min) / (model.t_max - model.t_min)
        corners = jnp.asarray([0, self.begin, self.end, 1], share.dtype)
        return jnp.interp(share, corners, jnp.asarray([model.t_min, self.hold, self.hold, model.t_max], share.dtype))

    def amount(self, step: Move, known: Array, lost: Array) -> Array:
        return jnp.where(step.start == step.end, self.inner.amount(step, known, lost), 0)


class Remasking(AbstractMoves):
    r"""Ancestral sampling of masks in which known tokens may be masked again (ReMDM, Wang et al. 2025).

    Every site has the right law at every time, as in [`Ancestral`][], and an early mistake may be mended. The error of
    tokens that jump together falls with the steps where $\sigma$ does: `Capped(c / k)` for `k` steps.

    **Reference:** [@wang2025remasking].
    """

    remasking: AbstractRemasking
    temperature: float | Array = 1.0
    keep_given: bool = eqx.field(static=True, default=True)
    """Whether what `x0=` holds besides masks stays as it is."""

    def __check_init__(self) -> None:
        check_not_negative("temperature", self.temperature)

    @property
    def evaluations(self) -> int:
        return 1

    def times(self, model: AbstractCategoricalModel, grid: Any) -> Array:
        mask_of(self, model)
        return self.remasking.times(model, grid)

    def probabilities(
        self, model: AbstractCategoricalModel, step: Move, x: Tokens, condition: Condition = None
    ) -> Array:
        """Of every class after the step, `(*shape, K)`."""
        mask, (p1, change) = mask_of(self, model), self._law(model, step, x, condition)
        masks = spread(jax.nn.one_hot(mask, p1.shape[-1], dtype=p1.dtype), p1.ndim)
        here = jax.nn.one_hot(x, p1.shape[-1], dtype=p1.dtype)
        other = jnp.where((x == mask)[..., None], p1, masks)
        return (1 - change)[..., None] * here + change[..., None] * other

    def move(
        self, model: AbstractCategoricalModel, step: Move, x: Tokens, condition: Condition, key: KeyArray
    ) -> Tokens:
        mask, (p1, change) = mask_of(self, model), self._law(model, step, x, condition)
        when_key, token_key = jax.random.split(key)
        tokens = jnp.where(x == mask, draw(token_key, p1).astype(x.dtype), mask)
        return jnp.where(jax.random.uniform(when_key, x.shape, change.dtype) < change, tokens, x)

    def _law(self, model: AbstractCategoricalModel, step: Move, x: Tokens, condition: Condition) -> tuple[Array, Array]:
        """The probabilities of the data, and the probability that each site changes."""
        mask, schedule = mask_of(self, model), model.interpolant.schedule
        p1 = data_probabilities(model, step.start, x, condition, self.temperature)
        known, lost = schedule.alpha(step.start), schedule.mask_probability(step.end)
        amount = self.remasking.amount(step, known, lost)
        lost_before = schedule.mask_probability(step.start)
        lift = (lost_before - (lost - amount)) / lost_before
        again = amount / jnp.where(known > 0, known, 1)
        change = jnp.where(x == mask, lift, again).astype(p1.dtype)
        # A failure stays one.
        change = jnp.where(x < 0, 0, change)
        if self.keep_given:
            change = jnp.where(given_of(step.first, mask, x.shape), 0, change)
        return p1, change
