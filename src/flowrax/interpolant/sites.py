"""Classes of sites, `(*shape)` integers, and numbers of every class, `(*shape, K)`."""

import jax
import jax.numpy as jnp

from .._checks import check_shape
from .._typing import Array, PyTree, Tokens


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


@jax.custom_jvp
def at_class(values: Array, x: Tokens) -> Array:
    """The number of each site's own class.

    Its derivative selects where `take_along_axis` would scatter into an array of all classes.

    **Arguments:**

    - `values`: `(*shape, K)`.
    - `x`: `(*shape)` integers, each a class.

    **Returns:** `(*shape)`.
    """
    return jnp.take_along_axis(values, x[..., None], axis=-1)[..., 0]


@at_class.defjvp
def _at_class_jvp(primals: PyTree, tangents: PyTree) -> tuple[Array, Array]:
    values, x = primals
    place = spread(jnp.arange(values.shape[-1], dtype=x.dtype), values.ndim)
    return at_class(values, x), jnp.sum(jnp.where(place == x[..., None], tangents[0], 0), axis=-1)


def invert(level: Array, weights: Array) -> Tokens:
    """The class at which the distribution function passes `level`, in [0, 1).

    Of many classes, sums over blocks of about their square root find the block, and sums within it the class.

    **Arguments:**

    - `level`: `(*shape)`.
    - `weights`: `(*shape, K)`, not negative; they need not sum to one. A class of weight zero is never found.

    **Returns:** `(*shape)` integers; -1 where the weights are NaN, infinite or all zero.
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


def _running(weights: Array) -> Array:
    """Running sums, as one product with a triangle, which is faster than sums one after the other."""
    triangle = jnp.triu(jnp.ones((weights.shape[-1],) * 2, weights.dtype))
    return jnp.matmul(weights, triangle, precision=jax.lax.Precision.HIGHEST)


def _passed(target: Array, weights: Array, sums: Array) -> Array:
    """The first entry, of those that are not zero, whose running sum is above the target; else the last of them."""
    n = weights.shape[-1]
    place = spread(jnp.arange(n, dtype=jnp.int32), weights.ndim)
    # Above zero, and higher the earlier, where the sum is above; below, and higher the later, where it is not.
    rank = jnp.where(sums > target[..., None], n - place, place - n)
    best = jnp.max(jnp.where(weights > 0, rank, -n), axis=-1)
    return jnp.where(best > 0, n - best, best + n)
