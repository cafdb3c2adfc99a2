"""Priors against dense linear algebra and exact draws, and models of them against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from flowrax import prior as pr
from laws import assert_moments
from priors import NAMES, dense, make_priors


@pytest.mark.parametrize("name", NAMES)
def test_products_are_those_of_the_dense_covariance(name, x64, key):
    prior = make_priors()[name]
    _, covariance = dense(prior)
    x = jax.random.normal(key, prior.shape)
    flat = np.asarray(x).reshape(-1)
    inverse = np.linalg.pinv(covariance, rcond=1e-10)
    pairs = [(prior.covariance_product, covariance), (prior.precision_product, inverse)]
    for product, matrix in [*pairs, (prior.project, covariance @ inverse)]:
        assert np.allclose(np.asarray(product(x)).reshape(-1), matrix @ flat, rtol=1e-9, atol=1e-9)
    values = np.linalg.eigvalsh(covariance)
    kept = values[values > 1e-10 * values.max()]
    assert int(prior.rank) == len(kept)
    assert float(prior.log_determinant) == pytest.approx(np.log(kept).sum(), abs=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_log_density_is_that_of_scipy(name, x64, key):
    """With respect to the subspace where the covariance is singular."""
    prior = make_priors()[name]
    mean, covariance = dense(prior)
    law = scipy.stats.multivariate_normal(mean, covariance, allow_singular=True)
    for k in range(3):
        x = prior.draw(jax.random.fold_in(key, k))
        assert float(prior.log_density(x)) == pytest.approx(law.logpdf(np.asarray(x).reshape(-1)), abs=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_rescaled_is_the_law_of_the_scaled_draw(name, x64, key):
    prior = make_priors()[name]
    small = prior.rescaled(0.3)
    x = prior.draw(key)
    assert np.allclose(small.draw(key), 0.3 * x, rtol=1e-12, atol=1e-12)
    change = -int(prior.rank) * np.log(0.3)
    assert float(small.log_density(0.3 * x)) == pytest.approx(float(prior.log_density(x)) + change, abs=1e-9)


@pytest.mark.parametrize("length", [2, 7, 16])
def test_harmonic_is_the_inverse_laplacian(length, x64):
    """Any length, not only the one first asked for, against `pinv` of the springs' matrix."""
    prior = pr.Harmonic(length, 1, distance=1.3)
    springs = np.diff(np.eye(length), axis=0)
    want = np.linalg.pinv(3 / 1.3**2 * springs.T @ springs)
    assert np.allclose(dense(prior)[1], want, rtol=0, atol=1e-11)


def test_harmonic_neighbours_are_a_distance_apart(x64, key):
    """Root mean square over 20,000 chains; every squared distance is d^2 / 3 times a chi-squared of 3."""
    x = jax.vmap(pr.Harmonic(6).draw)(jax.random.split(key, 20_000))
    squared = np.sum(np.diff(np.asarray(x), axis=1) ** 2, axis=-1)
    error = 3.8**2 / 3 * np.sqrt(6 / 20_000)
    assert np.all(np.abs(squared.mean(0) - 3.8**2) <= 5 * error)
    assert np.max(np.abs(np.asarray(x).mean(1))) < 1e-12


def test_standard_deviation_is_no_variance(x64, key):
    x = np.asarray(jax.vmap(pr.Gaussian((3,), std=3.0).draw)(jax.random.split(key, 20_000)))
    assert_moments(x, np.zeros(3), 9 * np.eye(3))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_centre_of_masked_points(dtype, x64, key):
    """Padding, even NaN, neither counts nor stays; the centre of each row is zero."""
    x = np.array(100 + jax.random.normal(key, (3, 5, 2)), dtype)
    mask = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]])
    x[mask == 0] = np.nan
    got = np.asarray(pr.remove_centre(jnp.asarray(x), mask))
    assert np.all(got[mask == 0] == 0)
    assert np.max(np.abs(got.sum(1))) <= 1e3 * np.finfo(dtype).eps
    want = x[0, :3] - x[0, :3].mean(0)
    assert np.allclose(got[0, :3], want, rtol=0, atol=200 * np.finfo(dtype).eps)


def test_masks_of_several_sizes_in_one_map(x64, key):
    masks = jnp.arange(6)[None, :] < jnp.asarray([2, 4, 6])[:, None]
    draw = lambda key, mask: pr.CentredGaussian((6, 2), mask=mask).draw(key)  # noqa: E731
    x = np.asarray(jax.vmap(draw)(jax.random.split(key, 3), masks))
    assert np.all(x[~np.asarray(masks)] == 0)
    assert np.max(np.abs(x.sum(1))) < 1e-12


def test_empirical_draws_are_rows(key):
    data = np.float32([[0, 0], [1, 2], [3, 4]])
    x = np.asarray(jax.vmap(pr.Empirical(data).draw)(jax.random.split(key, 3000)))
    index = np.searchsorted(data[:, 0], x[:, 0])
    assert np.array_equal(data[index], x)
    assert np.all(np.abs(np.bincount(index) - 1000) <= 5 * np.sqrt(3000 * 2 / 9))
