"""Clean-token probabilities of a model, and draws from them by one uniform random number per site."""

import jax
import jax.numpy as jnp

from ..._base import random
from ..._base.checks import time_dtype
from ..._base.typing import Array, Condition, KeyArray, Scalar, Tokens
from ..contract import AbstractCategoricalModel, AbstractLogitModel
from ..sites import invert, spread


def draw(key: KeyArray, weights: Array) -> Tokens:
    """Draws one class per site by inverting the cumulative distribution function.

    Sums over blocks of about the square root of K classes locate the block, and sums within it the class. This takes K
    additions and a single random number per site.

    **Arguments:**

    - `key`: the random key.
    - `weights`: `(*shape, K)`, not negative; they need not sum to one. A class of weight zero is never drawn.

    **Returns:** `(*shape)` integers; -1 where the weights are NaN, infinite or all zero.
    """
    weights = weights.astype(time_dtype(weights.dtype))
    return invert(random.uniform(key, weights.shape[:-1], weights.dtype), weights)


def log_tempered(log_probabilities: Array, temperature: float | Array) -> Array:
    r"""$\log p^{1/T}$, renormalised.

    **Arguments:**

    - `log_probabilities`: `(*shape, K)`.
    - `temperature`: `T`; 1 changes nothing, and 0 leaves only the most probable class.

    **Returns:** `(*shape, K)`.
    """
    if isinstance(temperature, int | float):
        if temperature == 1:
            return log_probabilities
        if temperature == 0:
            best = jnp.argmax(log_probabilities, axis=-1)
            chosen = jax.nn.one_hot(best, log_probabilities.shape[-1], dtype=bool)
            return jnp.where(chosen, 0, -jnp.inf).astype(log_probabilities.dtype)
    return jax.nn.log_softmax(log_probabilities / temperature, axis=-1)


def data_weights(
    model: AbstractCategoricalModel,
    t: Scalar,
    x: Tokens,
    condition: Condition = None,
    temperature: float | Array = 1.0,
) -> Array:
    r"""The unnormalised clean-token probabilities $p(x_1^i = k | x_t)^{1/T}$, up to a factor per site.

    Drawing a class needs no more. For a model with logits this avoids a logarithm followed by an exponential.

    **Arguments:**

    - `model`: a categorical model.
    - `t`, `x`, `condition`: one time, one event and its condition.
    - `temperature`: as in [`log_tempered`][]. Default: 1.

    **Returns:** `(*shape, K)`, not negative; the largest weight of a site is of order one.
    """
    if not isinstance(model, AbstractLogitModel) or (isinstance(temperature, int | float) and temperature == 0):
        return jnp.exp(log_tempered(model.log_probabilities(t, x, condition), temperature))
    logits, mask = model.logits(t, x, condition), model.prior.mask
    classes = spread(jnp.arange(logits.shape[-1], dtype=x.dtype), logits.ndim)
    if mask is not None:
        # XLA compiles this sum to less work than a selection.
        logits = logits + jnp.where(classes == mask, -jnp.inf, 0).astype(logits.dtype)
    gap = logits - jnp.max(logits, axis=-1, keepdims=True)
    weights = jnp.exp(gap if isinstance(temperature, int | float) and temperature == 1 else gap / temperature)
    if mask is None:
        return weights
    # An unmasked site keeps its token (carry-over).
    return jnp.where((x == mask)[..., None], weights, (classes == x[..., None]).astype(weights.dtype))


def data_probabilities(
    model: AbstractCategoricalModel,
    t: Scalar,
    x: Tokens,
    condition: Condition = None,
    temperature: float | Array = 1.0,
) -> Array:
    """[`data_weights`][], normalised to sum to one at each site."""
    weights = data_weights(model, t, x, condition, temperature)
    # A matrix product: XLA would fuse a sum with the exponentials and compute them twice.
    ones = jnp.ones((weights.shape[-1], 1), weights.dtype)
    return weights / jnp.matmul(weights, ones, precision=jax.lax.Precision.HIGHEST)
