"""Groups of particles that do not depend on each other: their spread, and resampling within each."""

import jax
import jax.numpy as jnp

from .._base import random
from .._base.typing import Array, KeyArray


def spread_of(log_evidence: Array) -> Array:
    """The standard deviation of the islands' log-evidences; infinite for one island or one without particles."""
    if log_evidence.shape[0] == 1:
        return jnp.full((), jnp.inf, log_evidence.dtype)
    finite = jnp.isfinite(log_evidence)
    return jnp.where(jnp.all(finite), jnp.std(jnp.where(finite, log_evidence, 0), ddof=1), jnp.inf)


def systematic(key: KeyArray, log_weights: Array, count: int | None = None) -> Array:
    """Systematic resampling within each island: the particles that go on. An island without weights keeps its own."""
    islands, n = log_weights.shape
    count = n if count is None else count
    none = jnp.max(log_weights, axis=1, keepdims=True) == -jnp.inf
    weights = jax.nn.softmax(jnp.where(none, 0, log_weights), axis=1)
    cumulative = jnp.cumsum(weights, axis=1)
    start = random.uniform(key, (islands, 1), log_weights.dtype)
    points = (start + jnp.arange(count, dtype=log_weights.dtype)[None]) / count * cumulative[:, -1:]
    return jnp.minimum(jax.vmap(lambda a, b: jnp.searchsorted(a, b, side="right"))(cumulative, points), n - 1)
