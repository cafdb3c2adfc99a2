"""Likelihoods of measurements against scipy, and what they refuse."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import flowrax as frx

X = np.array([0.4, -1.3, 2.0])
Y, SCALE = np.array([0.5, -1.0, 0.3]), np.array([0.2, 0.5, 1.5])
COUNTS = np.array([0, 2, 7])

CASES = {
    "nonlinear": (frx.NonlinearGaussian(jnp.sin, Y, SCALE), stats.norm.logpdf(Y, np.sin(X), SCALE)),
    "counts": (frx.Poisson(jnp.exp, COUNTS), stats.poisson.logpmf(COUNTS, np.exp(X))),
    "laplace": (frx.observation.Laplace(jnp.sin, Y, SCALE), stats.laplace.logpdf(Y, np.sin(X), SCALE)),
    "student": (frx.observation.StudentT(jnp.sin, Y, 0.3, 2.5), stats.t.logpdf(Y, 2.5, np.sin(X), 0.3)),
}


@pytest.mark.parametrize("name", CASES)
def test_likelihoods(name):
    observation, want = CASES[name]
    observation.check_event((3,))
    np.testing.assert_allclose(observation.log_likelihood(jnp.asarray(X, jnp.float32)), want.sum(), rtol=2e-5)


def test_a_rate_of_zero_allows_no_count_but_zero():
    at = jnp.zeros(2)
    assert abs(frx.Poisson(lambda x: x, [0, 0]).log_likelihood(at)) < 1e-5
    assert frx.Poisson(lambda x: x, [1, 0]).log_likelihood(at) == -jnp.inf


def test_refusals():
    with pytest.raises(ValueError, match="y holds 2 values that are no counts; pass non-negative integers"):
        frx.Poisson(jnp.exp, [1.5, -1.0, 2.0])
    with pytest.raises(ValueError, match="scale must be positive; got"):
        frx.observation.Laplace(jnp.sin, Y, 0.0)
    with pytest.raises(ValueError, match="df must be positive; got"):
        frx.observation.StudentT(jnp.sin, Y, 1.0, -1.0)
    with pytest.raises(ValueError, match=r"noise_std has shape \(2,\) but \(3,\) is expected"):
        frx.NonlinearGaussian(jnp.sin, Y, [1.0, 2.0])
    with pytest.raises(ValueError, match=r"function maps the model's events to shape \(2,\), but y has shape \(3,\)"):
        frx.NonlinearGaussian(jnp.sin, Y, 1.0).check_event((2,))
    with pytest.raises(ValueError, match=r"rate_function cannot be applied to the model's events, of shape \(4,\)"):
        frx.Poisson(lambda x: jnp.eye(3) @ x, COUNTS).check_event((4,))
