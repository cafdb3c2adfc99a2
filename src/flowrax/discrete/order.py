"""Which masks to lift first: a score of every site, whose highest go first.

Scores are in nats and not positive. An order that does not look at the tokens drawn lifts one token at a time without
bias: each is a draw of its law given the others, so with an exact model the events are draws of the joint law.
"""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.special import entr

from .._checks import check_not_negative
from .._typing import Array, KeyArray, Tokens
from ..abstract import Move


class AbstractOrder(eqx.Module):
    """A score of every site; the highest are the first to be lifted."""

    @abc.abstractmethod
    def __call__(self, key: KeyArray, log_p: Array, tokens: Tokens, step: Move) -> Array:
        r"""**Arguments:**

        - `log_p`: $\log p$ of each class, `(*shape, K)`.
        - `tokens`: drawn for each site, `(*shape)`.
        - `step`: which one it is.

        **Returns:** `(*shape)`.
        """


class Confidence(AbstractOrder):
    r"""$\log p$ of the token that was drawn, and Gumbel noise that falls to zero (Chang et al. 2022; Lee et al. 2025).

    It selects by the outcome: probable tokens are kept and improbable ones drawn again, so events are more probable
    than under the model's own law, even with one token at a time. That is a bias, and often what is wanted.

    **References:** [@chang2022maskgit], [@lee2025genmol].
    """

    randomness: float | Array = 0.0
    """The scale of the noise in the first step; it falls in even steps to zero in the last."""

    def __check_init__(self) -> None:
        check_not_negative("randomness", self.randomness)

    def __call__(self, key: KeyArray, log_p: Array, tokens: Tokens, step: Move) -> Array:
        chosen = jnp.take_along_axis(log_p, jnp.maximum(tokens, 0)[..., None], axis=-1)[..., 0]
        return _perturbed(key, chosen, self.randomness, step)


class Margin(AbstractOrder):
    r"""$\log (p_1 - p_2)$ of the two most probable classes, and such noise (Kim et al. 2025).

    **Reference:** [@kim2025train].
    """

    randomness: float | Array = 0.0
    """As in [`Confidence`][]."""

    def __check_init__(self) -> None:
        check_not_negative("randomness", self.randomness)

    def __call__(self, key: KeyArray, log_p: Array, tokens: Tokens, step: Move) -> Array:
        classes = jnp.arange(log_p.shape[-1], dtype=jnp.int32).reshape((1,) * (log_p.ndim - 1) + (-1,))
        first = jnp.max(log_p, axis=-1)
        best = jnp.argmax(log_p, axis=-1).astype(classes.dtype)
        others = jnp.where(classes == best[..., None], -jnp.inf, log_p)
        margin = jnp.exp(first) - jnp.exp(jnp.max(others, axis=-1))
        return _perturbed(key, jnp.log(margin), self.randomness, step)


class Entropy(AbstractOrder):
    r"""$\sum_k p_k \log p_k$, the sites of least entropy first, and such noise (Ye et al. 2025).

    **Reference:** [@ye2025dream].
    """

    randomness: float | Array = 0.0
    """As in [`Confidence`][]."""

    def __check_init__(self) -> None:
        check_not_negative("randomness", self.randomness)

    def __call__(self, key: KeyArray, log_p: Array, tokens: Tokens, step: Move) -> Array:
        return _perturbed(key, -jnp.sum(entr(jnp.exp(log_p)), axis=-1), self.randomness, step)


class LeftToRight(AbstractOrder):
    """The first mask of every row, in the order of the flattened event: autoregression."""

    def __call__(self, key: KeyArray, log_p: Array, tokens: Tokens, step: Move) -> Array:
        return -jnp.arange(tokens.size, dtype=jnp.int32).reshape(tokens.shape).astype(log_p.dtype)


class RandomOrder(AbstractOrder):
    """All orders with the same probability."""

    def __call__(self, key: KeyArray, log_p: Array, tokens: Tokens, step: Move) -> Array:
        return -jax.random.exponential(key, tokens.shape, log_p.dtype)


def _perturbed(key: KeyArray, score: Array, randomness: float | Array, step: Move) -> Array:
    if isinstance(randomness, int | float) and randomness == 0:
        return score
    left = (step.count - 1 - step.index).astype(score.dtype) / max(step.count - 1, 1)
    return score + randomness * left * jax.random.gumbel(key, score.shape, score.dtype)
