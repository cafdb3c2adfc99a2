"""Operations on tokens, `(*shape)` integers, and on values per class, `(*shape, K)`."""

import jax
import jax.numpy as jnp

from .._base import random
from .._base.checks import check_shape, time_dtype
from .._base.typing import Array, ArrayLike, KeyArray, PyTree, Tokens


def spread(row: Array, ndim: int) -> Array:
    """Adds leading axes to one value per class, so that it broadcasts over sites.

    **Arguments:**

    - `row`: one value per class, `(K,)`.
    - `ndim`: the number of axes of the result.

    **Returns:** the same values, `(1, ..., 1, K)`.
    """
    return row.reshape((1,) * (ndim - 1) + row.shape)


def probabilities_of(x: Array, num_classes: int) -> Array:
    """Converts tokens to one-hot vectors, and returns probabilities unchanged.

    **Arguments:**

    - `x`: tokens, `(*shape)` integers, or probabilities, `(*shape, K)` floats.
    - `num_classes`: the number of classes `K`.

    **Returns:** probabilities, `(*shape, K)`.
    """
    return x if jnp.issubdtype(x.dtype, jnp.inexact) else jax.nn.one_hot(x, num_classes, dtype=jnp.result_type(float))


def log_or_infinity(p: Array) -> Array:
    """The logarithm, with value minus infinity and derivative zero at zero.

    **Arguments:**

    - `p`: nonnegative values of any shape.

    **Returns:** an array with the shape of `p`.
    """
    positive = p > 0
    return jnp.where(positive, jnp.log(jnp.where(positive, p, 1)), -jnp.inf)


@jax.custom_jvp
def at_class(values: Array, x: Tokens) -> Array:
    """The value of each site's own class.

    The derivative is computed by selection; the derivative of `take_along_axis` is a slower scatter over all classes.

    **Arguments:**

    - `values`: one value per class, `(*shape, K)`.
    - `x`: the class of each site, `(*shape)` integers.

    **Returns:** the selected values, `(*shape)`.
    """
    return jnp.take_along_axis(values, x[..., None], axis=-1)[..., 0]


@at_class.defjvp
def _at_class_jvp(primals: PyTree, tangents: PyTree) -> tuple[Array, Array]:
    values, x = primals
    place = spread(jnp.arange(values.shape[-1], dtype=x.dtype), values.ndim)
    return at_class(values, x), jnp.sum(jnp.where(place == x[..., None], tangents[0], 0), axis=-1)


def invert(level: Array, weights: Array) -> Tokens:
    r"""The quantile function of a categorical distribution: a draw from it if `level` is uniform.

    For more than 64 classes the search has two stages, over blocks of about $\sqrt K$ classes and within the block.

    **Arguments:**

    - `level`: levels in [0, 1), `(*shape)`.
    - `weights`: nonnegative weights that need not sum to one, `(*shape, K)`. A class of weight zero is never returned.

    **Returns:** classes, `(*shape)` integers; -1 where the weights contain NaN or infinity or are all zero.
    """
    num_classes = weights.shape[-1]
    if num_classes <= 64:
        sums = _running(weights)
        total = sums[..., -1]
        answer = _passed(level * total, weights, sums)
    else:
        width = round(num_classes**0.5)
        padding = -num_classes % width
        padded = jnp.pad(weights, [(0, 0)] * (weights.ndim - 1) + [(0, padding)])
        blocks = padded.reshape(*weights.shape[:-1], -1, width)
        held = jnp.sum(blocks, axis=-1)
        total, sums = jnp.sum(weights, axis=-1), _running(held)
        found = _passed(level * total, held, sums)
        inside = jnp.take_along_axis(blocks, found[..., None, None], axis=-2)[..., 0, :]
        before = jnp.take_along_axis(sums - held, found[..., None], axis=-1)[..., 0]
        answer = found * width + _passed(level * total - before, inside, _running(inside))
    return jnp.where((total > 0) & (total < jnp.inf), answer, -1)


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


def mean_where(mask: ArrayLike | None, values: Array) -> Array:
    """The mean over the selected sites, or zero if there are none. Other sites are ignored even if they hold NaN.

    **Arguments:**

    - `mask`: nonzero at the selected sites, `(*shape)`, or None for all sites. Raises `ValueError` if its shape differs
        from `values`.
    - `values`: one value per site, `(*shape)`.

    **Returns:** a scalar.
    """
    total, number = sum_where(mask, values)
    return total / number


def sum_where(mask: ArrayLike | None, values: Array) -> tuple[Array, Array]:
    """The sum over the sites that [`mean_where`][] selects, and their number, or one if there are none."""
    if mask is None:
        return jnp.sum(values), jnp.asarray(max(values.size, 1), values.dtype)
    counted = jnp.asarray(mask).astype(bool)
    check_shape("The mask", counted.shape, values.shape)
    return jnp.sum(jnp.where(counted, values, 0)), jnp.maximum(jnp.sum(counted), 1).astype(values.dtype)


def _running(weights: Array) -> Array:
    """Cumulative sums over classes, as a product with a triangular matrix, which is faster than a sequential sum."""
    triangle = jnp.triu(jnp.ones((weights.shape[-1],) * 2, weights.dtype))
    return jnp.matmul(weights, triangle, precision=jax.lax.Precision.HIGHEST)


def _passed(target: Array, weights: Array, sums: Array) -> Array:
    """The first nonzero entry whose cumulative sum exceeds the target, or the last nonzero entry if none does."""
    n = weights.shape[-1]
    place = spread(jnp.arange(n, dtype=jnp.int32), weights.ndim)
    # The rank is positive and decreases with the index where the sum exceeds the target; elsewhere it is negative or
    # zero and increases with the index.
    rank = jnp.where(sums > target[..., None], n - place, place - n)
    best = jnp.max(jnp.where(weights > 0, rank, -n), axis=-1)
    return jnp.where(best > 0, n - best, best + n)
