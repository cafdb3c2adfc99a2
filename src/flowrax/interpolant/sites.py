"""Classes of sites, `(*shape)` integers, and numbers of every class, `(*shape, K)`."""

import jax
import jax.numpy as jnp

from .._checks import check_shape
from .._typing import Array, Tokens


def spread(row: Array, ndim: int) -> Array:
    """Numbers of each class with axes before them, to go with those of every site.

    **Arguments:**

    - `row`: `(K,)`.
    - `ndim`: how many axes there shall be.

    **Returns:** `(1, ..., 1, K)`.
    """
    return row.reshape((1,) * (ndim - 1) + row.shape)


def probabilities_of(x: Array, num_classes: int) -> Array:
    """Tokens as one-hot rows; probabilities, which are floating, as they are.

    **Arguments:**

    - `x`: `(*shape)` integers or `(*shape, K)` probabilities.
    - `num_classes`: `K`.

    **Returns:** `(*shape, K)`.
    """
    return x if jnp.issubdtype(x.dtype, jnp.inexact) else jax.nn.one_hot(x, num_classes, dtype=jnp.result_type(float))


def log_or_infinity(p: Array) -> Array:
    """The logarithm; minus infinity at zero, with the derivative zero there.

    **Arguments:**

    - `p`: not negative, of any shape.

    **Returns:** an array of the shape of `p`.
    """
    positive = p > 0
    return jnp.where(positive, jnp.log(jnp.where(positive, p, 1)), -jnp.inf)


def invert(level: Array, weights: Array) -> Tokens:
    """The class at which the distribution function passes `level`, in [0, 1).

    Sums over blocks of about the square root of K classes find the block, and sums within it the class.

    **Arguments:**

    - `level`: `(*shape)`.
    - `weights`: `(*shape, K)`, not negative; they need not sum to one. A class of weight zero is never found.

    **Returns:** `(*shape)` integers; -1 where the weights are NaN, infinite or all zero.
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


def mean_where(mask: Array, values: Array) -> Array:
    """The mean over the sites that count, zero where none does; what is masked counts for nothing, NaN included.

    **Arguments:**

    - `mask`: `(*shape)`, nonzero where a site counts. Raises `ValueError` for another shape than that of the values.
    - `values`: `(*shape)`.

    **Returns:** a scalar.
    """
    counted = jnp.asarray(mask) != 0
    check_shape("mask", counted.shape, values.shape)
    number = jnp.maximum(jnp.sum(counted), 1).astype(values.dtype)
    return jnp.sum(jnp.where(counted, values, 0)) / number


def _passed(target: Array, weights: Array) -> tuple[Array, Array]:
    """The first entry, of those that are not zero, at which the running sum passes the target; and what is left."""
    sums = jnp.cumsum(weights, axis=-1)
    positive = jnp.where(weights > 0, spread(jnp.arange(weights.shape[-1], dtype=jnp.int32), weights.ndim), -1)
    # Rounding may put the target past the last sum.
    index = jnp.minimum(jnp.sum(sums <= target[..., None], axis=-1, dtype=jnp.int32), jnp.max(positive, axis=-1))
    index = jnp.maximum(index, 0)
    before = jnp.take_along_axis(sums - weights, index[..., None], axis=-1)[..., 0]
    return index, jnp.maximum(target - before, 0)
