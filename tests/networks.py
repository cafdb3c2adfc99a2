"""Networks whose weights numpy draws: jax would compile a program for each shape of them."""

import contextlib
from collections.abc import Iterator
from unittest import mock

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np


def _rng(key):
    return np.random.default_rng(np.asarray(jax.random.key_data(key)))


def _uniform(key, shape=(), dtype=float, minval=0.0, maxval=1.0):
    drawn = _rng(key).uniform(minval, maxval, shape)
    return jnp.asarray(drawn.astype(jax.dtypes.canonicalize_dtype(dtype)))


def _normal(key, shape=(), dtype=float):
    return jnp.asarray(_rng(key).normal(size=shape).astype(jax.dtypes.canonicalize_dtype(dtype)))


@contextlib.contextmanager
def numpy_draws() -> Iterator[None]:
    """The uniform and normal draws of `jax.random` come from numpy: other draws of the same distributions."""
    with mock.patch.multiple(jax.random, uniform=_uniform, normal=_normal):
        yield


def stirred(network, key, scale=0.3):
    """The network with every weight drawn, those that start at zero too."""
    leaves, tree = jax.tree.flatten(eqx.filter(network, eqx.is_inexact_array))
    rng = _rng(key)
    drawn = [jnp.asarray((scale * rng.normal(size=leaf.shape)).astype(leaf.dtype)) for leaf in leaves]
    return eqx.combine(jax.tree.unflatten(tree, drawn), network)
