"""Draws of one class per site, by one uniform number each instead of one per class."""

import jax
import jax.numpy as jnp

from .._checks import time_dtype
from .._typing import Array, KeyArray, Tokens
from ..interpolant import invert


def draw(key: KeyArray, weights: Array) -> Tokens:
    """One class of each site by inversion of the distribution function.

    Sums over blocks of about the square root of K classes find the block, and sums within it the class: K additions,
    and no random number but one per site.

    **Arguments:**

    - `weights`: `(*shape, K)`, not negative; they need not sum to one. A class of weight zero is never drawn.

    **Returns:** `(*shape)` integers; -1 where the weights are NaN, infinite or all zero.
    """
    weights = weights.astype(time_dtype(weights.dtype))
    return invert(jax.random.uniform(key, weights.shape[:-1], weights.dtype), weights)


def log_tempered(log_probabilities: Array, temperature: float | Array) -> Array:
    r"""$\log p^{1/T}$, normalised again.

    **Arguments:**

    - `log_probabilities`: `(*shape, K)`.
    - `temperature`: `T`; 1 changes nothing, and towards 0 the most probable class alone is left.

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
