"""The package's random numbers, drawn in at least single precision and from threefry keys.

A uniform number of 16 bits takes few values, and a normal number made from it has a nonzero mean and truncated tails.
Draws are therefore made in float32 or wider, and normal numbers are rounded to the requested dtype. Uniform numbers,
and numbers used as times, levels or scores, keep at least float32, because rounding to 16 bits would turn some into 1.

Keys of the implementations `rbg` and `unsafe_rbg` give different draws under `vmap`, so a sample would depend on its
batch. [`as_threefry`][] derives a threefry key from them.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .checks import time_dtype
from .typing import Array, DType, KeyArray, KeyLike, Shape

_THREEFRY = "threefry2x32"


def as_threefry(key: KeyLike, name: str = "key") -> KeyArray:
    """A typed threefry key that depends only on the given key; a typed threefry key is returned unchanged.

    **Arguments:**

    - `key`: one typed key of any implementation, or the raw `uint32` words of one: `(2,)` of threefry, `(4,)` of rbg.
    - `name`: the name of the argument in the message.

    **Returns:** one typed key.

    **Raises:** `ValueError` for anything else.
    """
    words = _words(key, name)
    if words is None:
        assert isinstance(key, jax.Array)
        return key
    if words.shape == (2,):
        return jax.random.wrap_key_data(words, impl=_THREEFRY)
    derived = jax.random.key(0, impl=_THREEFRY)
    for index in range(words.shape[0]):
        derived = jax.random.fold_in(derived, words[index])
    return derived


def _words(key: Any, name: str) -> Array | None:
    """The words of one key, or None for a typed threefry key."""
    if not isinstance(key, jax.Array | np.ndarray):
        raise ValueError(f"{name} must be a random key, not {type(key).__name__}; pass {name}=jax.random.key(seed).")
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        shape, raw = key.shape, False
    elif key.dtype == jnp.uint32 and key.ndim and key.shape[-1] in (2, 4):
        shape, raw = key.shape[:-1], True
    else:
        raise ValueError(
            f"{name} must be a random key, not an array of dtype {key.dtype} and shape {tuple(key.shape)}; pass "
            f"{name}=jax.random.key(seed)."
        )
    if shape:
        raise ValueError(
            f"{name} is an array of keys of shape {tuple(shape)}, but one key is expected; pass "
            f"{name}=jax.random.key(seed), or map over the keys with jax.vmap."
        )
    if raw:
        return jnp.asarray(key)
    return None if jax.random.key_impl(key) == _THREEFRY else jax.random.key_data(key)


def normal(key: KeyLike, shape: Shape, dtype: DType = None) -> Array:
    """Standard normal numbers, drawn in at least float32 and rounded to `dtype`. Default: JAX's default."""
    drawn = jax.random.normal(as_threefry(key), shape, _at_least_single(dtype))
    return drawn if dtype is None else drawn.astype(dtype)


def truncated_normal(key: KeyLike, lower: Array, upper: Array, shape: Shape, dtype: DType) -> Array:
    """Standard normal numbers between `lower` and `upper`, in `dtype` or float32 if that is wider."""
    work = time_dtype(dtype)
    return jax.random.truncated_normal(as_threefry(key), lower.astype(work), upper.astype(work), shape, work)


def uniform(key: KeyLike, shape: Shape, dtype: DType = None, *, minval: float = 0.0, maxval: float = 1.0) -> Array:
    """Uniform numbers in `[minval, maxval)`, in `dtype` or float32 if that is wider. Default: JAX's default."""
    return jax.random.uniform(as_threefry(key), shape, _at_least_single(dtype), minval, maxval)


def beta(key: KeyLike, a: float | Array, b: float | Array, shape: Shape, dtype: DType = None) -> Array:
    """Numbers of the beta distribution, in `dtype` or float32 if that is wider."""
    return jax.random.beta(as_threefry(key), a, b, shape, _at_least_single(dtype))


def exponential(key: KeyLike, shape: Shape, dtype: DType = None) -> Array:
    """Numbers of the exponential distribution of mean one, in `dtype` or float32 if that is wider."""
    return jax.random.exponential(as_threefry(key), shape, _at_least_single(dtype))


def gumbel(key: KeyLike, shape: Shape, dtype: DType = None) -> Array:
    """Standard Gumbel numbers, in `dtype` or float32 if that is wider."""
    return jax.random.gumbel(as_threefry(key), shape, _at_least_single(dtype))


def rademacher(key: KeyLike, shape: Shape, dtype: DType) -> Array:
    """Random signs."""
    return jax.random.rademacher(as_threefry(key), shape, dtype)


def bernoulli(key: KeyLike, probability: float | Array, shape: Shape = ()) -> Array:
    """Booleans, true with the given probability."""
    probability = _widened(probability) if isinstance(probability, jax.Array) else float(probability)
    return jax.random.bernoulli(as_threefry(key), probability, shape)


def categorical(key: KeyLike, logits: Array, *, axis: int = -1, shape: Shape | None = None) -> Array:
    """Classes along `axis` of unnormalised log-probabilities."""
    return jax.random.categorical(as_threefry(key), _widened(logits), axis=axis, shape=shape)


def randint(key: KeyLike, shape: Shape, low: int, high: int, dtype: DType = int) -> Array:
    """Integers from `low` to `high - 1`."""
    return jax.random.randint(as_threefry(key), shape, low, high, dtype)


def permutation(key: KeyLike, x: int | Array) -> Array:
    """`x` with its rows in random order, or a random order of `range(x)`."""
    return jax.random.permutation(as_threefry(key), x)


def _at_least_single(dtype: DType) -> DType:
    return jnp.result_type(float) if dtype is None else time_dtype(dtype)


def _widened(x: Array) -> Array:
    return x.astype(time_dtype(x.dtype))
