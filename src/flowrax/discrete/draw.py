"""Draws of one class per site, by one uniform number each instead of one per class."""

import jax
import jax.numpy as jnp

from .._typing import Array, KeyArray, Tokens
from ..interpolant import spread


def draw(key: KeyArray, weights: Array) -> Tokens:
    """One class of each site by inversion of the distribution function.

    Sums over blocks of about the square root of K classes find the block, and sums within it the class: K additions,
    and no random number but one per site.

    **Arguments:**

    - `weights`: `(*shape, K)`, not negative; they need not sum to one. A class of weight zero is never drawn.

    **Returns:** `(*shape)` integers; -1 where the weights are NaN, infinite or all zero.
    """
    level = jax.random.uniform(key, weights.shape[:-1], weights.dtype)
    return invert(level, weights)


def invert(level: Array, weights: Array) -> Tokens:
    """The class at which the distribution function passes `level`, in [0, 1); as [`draw`][].

    **Arguments:**

    - `level`: `(*shape)`.
    - `weights`: `(*shape, K)`.

    **Returns:** `(*shape)` integers.
    """
    num_classes = weights.shape[-1]
    width = max(1, round(num_classes**0.5))
    padding = -num_classes % width
    padded = jnp.pad(weights, [(0, 0)] * (weights.ndim - 1) + [(0, padding)])
    blocks = padded.reshape(*weights.shape[:-1], -1, width)
    sums = jnp.sum(blocks, axis=-1)
    total = jnp.sum(sums, axis=-1)
    found, rest = _passed(level * total, sums)
    inside = jnp.take_along_axis(blocks, found[..., None, None], axis=-2)[..., 0, :]
    index, _ = _passed(rest, inside)
    answer = found * width + index
    return jnp.where((total > 0) & (total < jnp.inf), answer, -1)


def _passed(target: Array, weights: Array) -> tuple[Array, Array]:
    """The first entry, of those that are not zero, at which the running sum passes the target; and what is left."""
    sums = jnp.cumsum(weights, axis=-1)
    positive = jnp.where(weights > 0, spread(jnp.arange(weights.shape[-1], dtype=jnp.int32), weights.ndim), -1)
    # Rounding may put the target past the last sum.
    index = jnp.minimum(jnp.sum(sums <= target[..., None], axis=-1, dtype=jnp.int32), jnp.max(positive, axis=-1))
    index = jnp.maximum(index, 0)
    before = jnp.take_along_axis(sums - weights, index[..., None], axis=-1)[..., 0]
    return index, jnp.maximum(target - before, 0)


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
