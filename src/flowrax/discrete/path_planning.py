"""Path planning: each step decides anew which sites are known, and may mask again what it thinks little of."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._checks import check_not_negative
from .._typing import Array, Condition, KeyArray, Tokens
from ..abstract import AbstractLogitModel, AbstractMoves, Move
from .draw import draw, log_tempered
from .masks import given_of, highest, mask_of, number_of_steps, size_of, time_of, times_of_shares
from .order import AbstractOrder, Confidence


class PathPlanning(AbstractMoves):
    r"""The network judges its own tokens, and the worst are masked again (P2, Peng et al. 2025).

    A token is drawn for every mask. Sites are scored, $\eta$ times the score where they were known before, and in step
    $j$ of $k$ the $\lfloor n (k - j) / k \rfloor$ worst of the $n$ sites are masked, so that none is left at the end.
    At $\eta = 0$ nothing that is known is masked again; at $\eta = 1$ old and new tokens compete. The judgement of a
    known site is the network's own output there, which the loss of masks does not train.

    **Reference:** [@peng2025path].
    """

    score: AbstractOrder = Confidence()
    """[`Confidence`][], [`RandomOrder`][] or another order, of which the highest stay."""
    stochasticity: float | Array = 1.0
    r"""$\eta$."""
    temperature: float | Array = 1.0
    """Of the tokens that are drawn and of the probabilities in `score`, as in [`Unmask`][]."""
    keep_given: bool = eqx.field(static=True, default=True)
    """Whether what `x0=` holds besides masks stays as it is."""
    judge_drawn: bool = eqx.field(static=True, default=False)
    """Whether a known site is judged by a token drawn there, as the authors' code does, instead of by its own."""

    def __check_init__(self) -> None:
        check_not_negative("stochasticity", self.stochasticity)
        check_not_negative("temperature", self.temperature)

    @property
    def evaluations(self) -> int:
        return 1

    def times(self, model: AbstractLogitModel, grid: Any) -> Array:
        """Nominal times, `grid` steps or one for each site; raises `ValueError` without a mask or without logits."""
        mask_of(self, model)
        if not isinstance(model, AbstractLogitModel):
            raise ValueError(f"PathPlanning judges known sites by logits, and {type(model).__name__} has none.")
        steps = number_of_steps(self, grid, size_of(model))
        return times_of_shares(model, jnp.linspace(0, 1, steps + 1))

    def move(self, model: AbstractLogitModel, step: Move, x: Tokens, condition: Condition, key: KeyArray) -> Tokens:
        mask = mask_of(self, model)
        masked, free = x == mask, jnp.ones(x.shape, bool)
        if self.keep_given:
            free = ~given_of(step.first, mask, x.shape)
        # A failure stays one.
        free &= x >= 0
        score_key, token_key = jax.random.split(key)
        logits = model.logits(time_of(model, masked), x, condition)
        log_p = jax.nn.log_softmax(logits.at[..., mask].set(-jnp.inf), axis=-1)
        tempered = log_tempered(log_p, self.temperature)
        drawn = draw(token_key, jnp.exp(tempered)).astype(x.dtype)
        greedy = isinstance(self.temperature, int | float) and self.temperature == 0
        tokens = drawn if self.judge_drawn else jnp.where(masked, drawn, x)
        score = self.score(score_key, log_p if greedy else tempered, tokens, step)
        # Finite, so that a factor of zero is no NaN.
        score = jnp.maximum(score, jnp.finfo(score.dtype).min)
        score = jnp.where(masked, score, score * self.stochasticity)
        sites, left = jnp.sum(free, dtype=jnp.int32), (step.count - 1 - step.index).astype(jnp.int32)
        worst = highest(jnp.where(free, -score, -jnp.inf), sites * left // step.count)
        return jnp.where(free, jnp.where(worst, mask, jnp.where(masked, drawn, x)), x)
