"""Priors of every kind, in double precision, and what is known of them by dense linear algebra."""

import jax
import jax.numpy as jnp
import numpy as np

from flowrax import prior as pr
from laws import covariances

MASK = np.array([1, 0, 1, 1, 0])


def make_priors():
    full = np.asarray(covariances(jax.random.key(1), 1, 6, jnp.float64)[0])
    low = full @ np.diag([1.0, 1, 1, 1, 0, 0]) @ full
    return {
        "standard": pr.Gaussian((4, 2)),
        "diagonal": pr.Gaussian((3,), mean=[1.0, 0.0, -1.0], std=[0.5, 2.0, 3.0]),
        "padded": pr.Gaussian((3, 2), std=np.array([[1.0, 2], [0, 0], [0.5, 1]])),
        "centred": pr.CentredGaussian((4, 3), std=1.5),
        "masked": pr.CentredGaussian((5, 2), std=0.7, mean=np.arange(10.0).reshape(5, 2), mask=MASK),
        "full": pr.CorrelatedGaussian(full, mean=np.arange(6.0).reshape(3, 2), shape=(3, 2)),
        "low rank": pr.CorrelatedGaussian(low, mean=low @ np.ones(6)),
        "harmonic": pr.Harmonic(5, 2, distance=2.0),
    }


with jax.enable_x64(True):
    NAMES = list(make_priors())


def dense(prior):
    """Mean `(d,)` and covariance `(d, d)`, from the images of unit vectors under the draw."""
    root = images(prior, prior.root)
    return np.asarray(prior.mean).reshape(-1), root.T @ root


def images(prior, linear):
    """`(d, d)`, the rows being the images of the unit vectors."""
    size = int(np.prod(prior.shape))
    unit = jnp.eye(size).reshape(size, *prior.shape)
    return np.asarray(jax.jit(jax.vmap(linear))(unit)).reshape(size, size)
