"""What several test files share: the schedules by name and a mixture with full covariances."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import flowrax as frx

SCHEDULES = {
    "linear": frx.Linear(),
    "conditional OT": frx.schedule.ConditionalOT(0.05),
    "cosine": frx.Cosine(),
    "vp": frx.VariancePreserving(),
    "subvp": frx.SubVariancePreserving(),
    "ve": frx.VarianceExploding(),
    "edm": frx.EDM(),
}

MORE_SCHEDULES = {
    "cosine_snr": frx.schedule.CosineSNR(),
    "cosine_snr_1.5": frx.schedule.CosineSNR(nu=1.5, s=0.02),
    "linear_snr": frx.schedule.LinearSNR(),
    "log_linear_snr": frx.schedule.LogLinearSNR(),
    "polynomial": frx.schedule.Polynomial(1.5),
}
"""Those whose formulas are checked as strictly, and whose use is checked less often."""


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def covariances(key, num, size, dtype=None):
    """`(num, size, size)`, full, with eigenvalues between 0.05 and about 1."""
    factors = jax.random.normal(key, (num, size, size), dtype) / (2 * size) ** 0.5
    return factors @ factors.mT + 0.05 * jnp.eye(size, dtype=dtype)[None]


def mixture(num, size, dtype=None, seed=0):
    """A mixture of `num` well-spread Gaussians in `size` dimensions with uneven weights."""
    # The default precision is that of the test, not that of the first test that asked.
    return _mixture(num, size, str(jnp.result_type(float)) if dtype is None else dtype, seed)


@functools.cache
def _mixture(num, size, dtype, seed):
    keys = jax.random.split(jax.random.key(seed), 3)
    weights = jax.random.uniform(keys[0], (num,), dtype, 0.5, 1.5)
    means = 3 * jax.random.normal(keys[1], (num, size), dtype)
    return frx.oracle.GaussianMixture(weights, means, covariances(keys[2], num, size, dtype))


def moments(oracle):
    """Mean `(d,)` and second moments `(d, d)` of a mixture, in float64."""
    weights, means, covs = (np.asarray(v, np.float64) for v in (oracle.weights, oracle.means, oracle.covariances))
    return weights @ means, np.einsum("k,kij->ij", weights, covs + means[:, :, None] * means[:, None, :])


def assert_moments(x, mean, second):
    """Mean and second moments of draws within 5 standard errors, entry by entry."""
    x = np.asarray(x, np.float64)
    products = x[:, :, None] * x[:, None, :]
    assert np.all(np.abs(x.mean(0) - mean) <= 5 * x.std(0) / len(x) ** 0.5)
    assert np.all(np.abs(products.mean(0) - second) <= 5 * products.std(0) / len(x) ** 0.5)
