"""Masks are lifted where the model is surest."""

from typing import Any

import jax
import jax.numpy as jnp

from .._checks import check_not_negative
from .._typing import Array, Condition, KeyArray, Tokens
from ..abstract import AbstractCategoricalModel, AbstractMoves, Move
from .ancestral import even_times
from .draw import draw, log_tempered


class Purity(AbstractMoves):
    r"""As many masks are lifted as [`Euler`][]'s steps would lift, but on the sites whose best class is most probable.

    Each mask counts with probability $\Delta t\, (\dot\alpha + \eta \alpha) / (1 - \alpha)$, at most one; tokens that
    were there before are masked again with probability $\eta \Delta t$, but for the last step, which leaves no mask.
    Which sites come first depends on what is seen alone, so that with an exact model and $\eta = 0$ the law is exact to
    first order in the steps; masks that come back over an order that depends on tokens leave a bias.

    **Reference:** [@tang2022improved].

    - `stochasticity`: $\eta$, the rate at which masks come back.
    - `temperature`: of the classes that are drawn; the order is by the model's own probabilities.
    """

    stochasticity: float | Array = 0.0
    temperature: float | Array = 1.0

    def __check_init__(self) -> None:
        check_not_negative("stochasticity", self.stochasticity)
        check_not_negative("temperature", self.temperature)

    @property
    def evaluations(self) -> int:
        return 1

    def times(self, model: AbstractCategoricalModel, grid: Any) -> Array:
        """Raises `ValueError` for a prior without a mask."""
        if model.prior.mask is None:
            raise ValueError("Purity lifts masks; the model's prior has none. Use Euler or MixtureJump instead.")
        return even_times(model, grid)

    def chances(self, model: AbstractCategoricalModel, step: Move) -> tuple[Array, Array]:
        """The probabilities that a mask is lifted in the step, and that a token is masked again."""
        schedule = model.interpolant.schedule
        eta = jnp.asarray(self.stochasticity, step.start.dtype)
        width, lost = step.end - step.start, schedule.mask_probability(step.start)
        rate = (schedule.alpha_rate(step.start) + eta * schedule.alpha(step.start)) / lost
        last = schedule.mask_probability(step.end) == 0
        return jnp.where(last, 1, jnp.minimum(width * rate, 1)), jnp.where(last, 0, jnp.minimum(width * eta, 1))

    def move(
        self, model: AbstractCategoricalModel, step: Move, x: Tokens, condition: Condition, key: KeyArray
    ) -> Tokens:
        number_key, what_key, back_key = jax.random.split(key, 3)
        log_p = model.log_probabilities(step.start, x, condition)
        lift, back = self.chances(model, step)
        mask: Any = model.prior.mask
        masked = x == mask
        number = jnp.sum(masked & (jax.random.uniform(number_key, x.shape, lift.dtype) < lift), dtype=jnp.int32)
        order = jnp.argsort(jnp.where(masked, -jnp.max(log_p, axis=-1), jnp.inf), axis=None)
        rank = jnp.zeros(x.size, jnp.int32).at[order].set(jnp.arange(x.size, dtype=jnp.int32)).reshape(x.shape)
        new = draw(what_key, jnp.exp(log_tempered(log_p, self.temperature)))
        again = ~masked & (jax.random.uniform(back_key, x.shape, back.dtype) < back)
        return jnp.where(masked & (rank < number), new, jnp.where(again, mask, x))
