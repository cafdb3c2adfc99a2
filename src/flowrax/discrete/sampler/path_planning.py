"""Path planning: each step decides anew which sites to mask, and may re-mask tokens it has low confidence in."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ..._base.checks import check_not_negative
from ..._base.typing import Array, Condition, KeyArray, Tokens
from ..base import AbstractLogitModel, AbstractSingleEvaluationSampler, SamplerStep
from ..sites import draw
from .clean_tokens import log_tempered
from .masks import given_of, highest, mask_of, number_of_steps, size_of, time_of, times_of_shares
from .order import AbstractOrder, Confidence


class PathPlanning(AbstractSingleEvaluationSampler):
    r"""Scores all tokens by the network's output and re-masks those with the lowest scores (P2, Peng et al. 2025).

    Each step draws a token for every masked site and scores all sites. The score of a site that was unmasked before the
    step is multiplied by $\eta$. Step $j$ of $k$ then masks the $\lfloor n (k - j) / k \rfloor$ of the $n$ sites with
    the lowest scores, so that no mask remains at the end. With $\eta = 0$ no unmasked site is masked again; with
    $\eta = 1$ old and new tokens compete on equal terms. The score of an unmasked site comes from the network's output
    at that site, which the loss of masked diffusion does not train.

    **Reference:** [@peng2025path].
    """

    score: AbstractOrder = Confidence()
    """The order that scores the sites; the highest scores stay unmasked. Default: [`Confidence`][]."""
    stochasticity: float | Array = 1.0
    r"""$\eta$, not negative. Default: 1."""
    temperature: float | Array = 1.0
    """The temperature of the drawn tokens and of the probabilities in `score`, as in [`Unmask`][]. Default: 1."""
    keep_given: bool = eqx.field(static=True, default=True)
    """Whether the tokens given in `x0=` stay fixed. Default: True."""
    judge_drawn: bool = eqx.field(static=True, default=False)
    """Whether an unmasked site is scored by a freshly drawn token, as in the authors' code, instead of its own token.
    Default: False."""

    def __check_init__(self) -> None:
        check_not_negative("stochasticity", self.stochasticity)
        check_not_negative("temperature", self.temperature)

    def times(self, model: AbstractLogitModel, grid: Any) -> Array:
        """The nominal times of `grid` steps (default: one per site); raises `ValueError` without a mask or logits."""
        mask_of(self, model)
        if not isinstance(model, AbstractLogitModel):
            raise ValueError(f"PathPlanning scores unmasked sites by logits, and {type(model).__name__} has none.")
        steps = number_of_steps(self, grid, size_of(model))
        return times_of_shares(model, jnp.linspace(0, 1, steps + 1))

    def step(
        self, model: AbstractLogitModel, step: SamplerStep, x: Tokens, condition: Condition, key: KeyArray
    ) -> Tokens:
        mask = mask_of(self, model)
        masked, free = x == mask, jnp.ones(x.shape, bool)
        if self.keep_given:
            free = ~given_of(step.first, mask, x.shape)
        # A failed site (-1) stays failed.
        free &= x >= 0
        score_key, token_key = jax.random.split(key)
        logits = model.logits(time_of(model, masked), x, condition)
        log_p = jax.nn.log_softmax(logits.at[..., mask].set(-jnp.inf), axis=-1)
        tempered = log_tempered(log_p, self.temperature)
        drawn = draw(token_key, jnp.exp(tempered)).astype(x.dtype)
        greedy = isinstance(self.temperature, int | float) and self.temperature == 0
        tokens = drawn if self.judge_drawn else jnp.where(masked, drawn, x)
        score = self.score(score_key, log_p if greedy else tempered, tokens, step)
        # Keep scores finite: 0 x infinity is NaN.
        score = jnp.maximum(score, jnp.finfo(score.dtype).min)
        score = jnp.where(masked, score, score * self.stochasticity)
        sites, left = jnp.sum(free, dtype=jnp.int32), (step.count - 1 - step.index).astype(jnp.int32)
        worst = highest(jnp.where(free, -score, -jnp.inf), sites * left // step.count)
        return jnp.where(free, jnp.where(worst, mask, jnp.where(masked, drawn, x)), x)
