"""The variational bound against closed forms on Gaussian data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import flowrax as frx

MEAN, VARIANCES = np.array([0.5, -1.0, 0.25]), np.array([1.5, 0.7, 0.2])
ORACLE_ARGUMENTS = MEAN, np.diag(VARIANCES)
X = np.array([[0.2, -0.3, 0.1], [2.0, 0.5, 0.3]])
# Of finite log-SNR at both ends, with little noise left at t = 1.
VE = frx.VarianceExploding(1e-3, 20.0)
INTERVALS = {"ve": (VE, {}), "linear": (frx.Linear(), {"t_min": 0.01, "t_max": 0.9995})}


@pytest.mark.parametrize("name", INTERVALS)
def test_in_continuous_time_it_is_the_negative_log_likelihood(name, x64, key):
    schedule, interval = INTERVALS[name]
    model = frx.oracle.Gaussian(*ORACLE_ARGUMENTS).model(schedule)
    bound = frx.verb.variational_bound(model, X, key, num_draws=40_000, **interval)
    exact = -stats.multivariate_normal(MEAN, np.diag(VARIANCES)).logpdf(X)
    # The Gaussian reconstruction neglects 1e-6 of a variance of 0.2.
    assert np.all(np.abs(bound.value - exact) < 4 * bound.standard_error + 1e-4)
    assert np.all(bound.standard_error < 0.25)
    np.testing.assert_allclose(bound.bits_per_dimension, bound.value / (3 * np.log(2)))


@pytest.mark.parametrize("num_steps", [1, 4, 64])
def test_in_discrete_time_it_has_its_closed_form_and_falls_with_the_steps(num_steps, x64, key):
    oracle = frx.oracle.Gaussian(*ORACLE_ARGUMENTS)
    schedule = frx.VarianceExploding(0.05, 20.0)
    n = 2000
    x = np.asarray(oracle.sample(key, (n,)))
    bound = frx.verb.variational_bound(oracle.model(schedule), x, key, num_steps=num_steps, num_draws=8)
    # The mean over data of the squared data error is the variance given z, e / (1 + SNR e).
    snr = np.exp(np.asarray(schedule.log_snr(jnp.linspace(0.0, 1.0, num_steps + 1))))
    errors = np.sum(VARIANCES / (1 + snr[:-1, None] * VARIANCES), axis=1)
    closed = np.sum((snr[1:] - snr[:-1]) * errors) / 2
    draws = np.asarray(bound.diffusion)
    assert abs(draws.mean() - closed) < 4 * draws.std() / n**0.5
    # The continuous limit, the integral over the SNR, from below.
    limit = np.sum(np.log1p(snr[-1] * VARIANCES) - np.log1p(snr[0] * VARIANCES)) / 2
    assert closed > limit


def test_the_prior_term_is_a_divergence_of_gaussians(x64, key):
    # Without its data in the source, the model's prior is N(0, sigma^2): the divergence is |alpha x|^2 / (2 sigma^2).
    model = frx.Model(lambda t, x, c: jnp.zeros_like(x), VE, frx.Noise(), shape=(3,), dtype=jnp.float64)
    bound = frx.verb.variational_bound(model, X, key, num_draws=2)
    np.testing.assert_allclose(bound.prior, np.sum(X**2, axis=1) / (2 * 20.0**2), rtol=1e-9)


def test_discrete_reconstruction_is_a_law_on_its_levels(x64, key):
    law = frx.verb.DiscreteReconstruction(-1.0, 1.0, levels=3)
    z, alpha, sigma = jax.random.normal(key, (2,)), jnp.asarray(0.9), jnp.asarray(0.4)
    values = [jnp.asarray([a, b]) for a in (-1.0, 0.0, 1.0) for b in (-1.0, 0.0, 1.0)]
    probabilities = np.exp([-float(law(x, z, alpha, sigma)) for x in values])
    np.testing.assert_allclose(probabilities.sum(), 1, rtol=1e-12)
    likelihoods = np.array([stats.norm(alpha * x, sigma).pdf(z).prod() for x in values])
    np.testing.assert_allclose(probabilities, likelihoods / likelihoods.sum(), rtol=1e-10)


def test_an_infinite_log_snr_is_named(key):
    model = frx.oracle.Gaussian(*ORACLE_ARGUMENTS).model(frx.Linear())
    with pytest.raises(ValueError, match=r"The log-SNR is infinite at t_min=0.0; pass a t_min= at which"):
        frx.verb.variational_bound(model, X, key)


@pytest.mark.parametrize("wrap", ["oracle", "warped"])
def test_other_noise_is_refused_however_the_model_is_wrapped(wrap, key):
    prior = frx.prior.Gaussian((3,), std=2.0)
    model = frx.oracle.Gaussian(*ORACLE_ARGUMENTS).model(frx.VarianceExploding(1e-2, 20.0), prior=prior)
    model = model if wrap == "oracle" else frx.warp(model, VE)
    with pytest.raises(
        ValueError, match=r"The variational bound needs standard normal noise, but the prior is Gaussian"
    ):
        frx.verb.variational_bound(model, X, key)
