"""Unmasking orders: a score of every masked site; the sites with the highest scores are unmasked first.

Scores are in nats and never positive. An order that ignores the drawn tokens is unbiased if one site is unmasked per
step: each token is drawn from its distribution conditioned on the unmasked tokens, so with an exact model the events
follow the joint distribution.
"""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp

from ..._base import random
from ..._base.arguments import Checked
from ..._base.checks import check_not_negative
from ..._base.typing import Array, KeyArray, Tokens
from ..base import SamplerStep
from ..sites import at_class


class AbstractOrder(eqx.Module, metaclass=Checked):
    """The score of every site; the sites with the highest scores are unmasked first."""

    @abc.abstractmethod
    def __call__(self, key: KeyArray, log_p: Array, tokens: Tokens, step: SamplerStep) -> Array:
        r"""**Arguments:**

        - `key`: for orders that are random.
        - `log_p`: $\log p$ of each class, `(*shape, K)`.
        - `tokens`: the token drawn for each site, `(*shape)`.
        - `step`: the current step.

        **Returns:** the scores, `(*shape)`.
        """


class Confidence(AbstractOrder):
    r"""$\log p$ of the drawn token, plus Gumbel noise that decays to zero (Chang et al. 2022; Lee et al. 2025).

    The order selects by the outcome: probable tokens are kept and improbable tokens are drawn again. Events are
    therefore more probable than events drawn from the model's distribution, even if one site is unmasked per step. This
    bias is often wanted.

    **References:** [@chang2022maskgit], [@lee2025genmol].
    """

    randomness: float | Array = 0.0
    """The scale of the Gumbel noise in the first step; it decays linearly to zero in the last step. Default: 0."""

    def __check_init__(self) -> None:
        check_not_negative("randomness", self.randomness)

    def __call__(self, key: KeyArray, log_p: Array, tokens: Tokens, step: SamplerStep) -> Array:
        return _perturbed(key, at_class(log_p, jnp.maximum(tokens, 0)), self.randomness, step)


class Margin(AbstractOrder):
    r"""$\log (p_1 - p_2)$ of the two most probable classes, plus the noise of [`Confidence`][] (Kim et al. 2025).

    **Reference:** [@kim2025train].
    """

    randomness: float | Array = 0.0
    """As in [`Confidence`][]."""

    def __check_init__(self) -> None:
        check_not_negative("randomness", self.randomness)

    def __call__(self, key: KeyArray, log_p: Array, tokens: Tokens, step: SamplerStep) -> Array:
        best = jax.nn.one_hot(jnp.argmax(log_p, axis=-1), log_p.shape[-1], dtype=bool)
        others = jnp.where(best, -jnp.inf, log_p)
        margin = jnp.exp(jnp.max(log_p, axis=-1)) - jnp.exp(jnp.max(others, axis=-1))
        return _perturbed(key, jnp.log(margin), self.randomness, step)


class Entropy(AbstractOrder):
    r"""The negative entropy $\sum_k p_k \log p_k$, plus the noise of [`Confidence`][] (Ye et al. 2025).

    **Reference:** [@ye2025dream].
    """

    randomness: float | Array = 0.0
    """As in [`Confidence`][]."""

    def __check_init__(self) -> None:
        check_not_negative("randomness", self.randomness)

    def __call__(self, key: KeyArray, log_p: Array, tokens: Tokens, step: SamplerStep) -> Array:
        return _perturbed(key, -jnp.sum(jax.scipy.special.entr(jnp.exp(log_p)), axis=-1), self.randomness, step)


class LeftToRight(AbstractOrder):
    """Autoregressive order: the first masked site of the flattened event comes first."""

    def __call__(self, key: KeyArray, log_p: Array, tokens: Tokens, step: SamplerStep) -> Array:
        return -jnp.arange(tokens.size, dtype=jnp.int32).reshape(tokens.shape).astype(log_p.dtype)


class RandomOrder(AbstractOrder):
    """A uniformly random order."""

    def __call__(self, key: KeyArray, log_p: Array, tokens: Tokens, step: SamplerStep) -> Array:
        return -random.exponential(key, tokens.shape, log_p.dtype)


def _perturbed(key: KeyArray, score: Array, randomness: float | Array, step: SamplerStep) -> Array:
    if isinstance(randomness, int | float) and randomness == 0:
        return score
    left = (step.count - 1 - step.index).astype(score.dtype) / max(step.count - 1, 1)
    noise = random.gumbel(key, score.shape, score.dtype)
    return score.astype(noise.dtype) + randomness * left.astype(noise.dtype) * noise
