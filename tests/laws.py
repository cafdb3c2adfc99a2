"""What several test files share: the schedules by name and a mixture with full covariances."""

import jax
import jax.numpy as jnp

import flowrax as frx

SCHEDULES = {
    "linear": frx.Linear(),
    "cosine": frx.Cosine(),
    "vp": frx.VariancePreserving(),
    "subvp": frx.SubVariancePreserving(),
    "ve": frx.VarianceExploding(),
    "edm": frx.EDM(),
}


def covariances(key, num, size, dtype=None):
    """`(num, size, size)`, full, with eigenvalues between 0.05 and about 1."""
    factors = jax.random.normal(key, (num, size, size), dtype) / (2 * size) ** 0.5
    return factors @ factors.mT + 0.05 * jnp.eye(size, dtype=dtype)


def mixture(num, size, dtype=None, seed=0):
    """A mixture of `num` well-spread Gaussians in `size` dimensions with uneven weights."""
    keys = jax.random.split(jax.random.key(seed), 3)
    weights = jax.random.uniform(keys[0], (num,), dtype, 0.5, 1.5)
    means = 3 * jax.random.normal(keys[1], (num, size), dtype)
    return frx.oracle.GaussianMixture(weights, means, covariances(keys[2], num, size, dtype))
