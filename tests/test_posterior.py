"""Posteriors against the closed form, importance weights against the evidence."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowrax as frx

OPERATOR = np.array([[1.0, 0.5, 0.0, -0.3], [0.0, -1.0, 0.7, 0.2]])
Y = np.array([1.0, -0.5])
NOISE = 0.3


def observation():
    return frx.LinearGaussian(jnp.asarray(OPERATOR), jnp.asarray(Y), NOISE)


@pytest.mark.accuracy
def test_pigdm_is_exact_for_the_prior_it_assumes(x64, key):
    oracle = frx.oracle.Gaussian(jnp.zeros(4), jnp.eye(4))
    exact = oracle.posterior(OPERATOR, Y, NOISE**2 * np.eye(2))
    n = 4000
    draws = frx.posterior(
        oracle.model(frx.VariancePreserving()), observation(), key, n, method=frx.ImportanceSampling()
    )
    # The mean of n draws has covariance S / n; the residuals carry the posterior's own spread.
    z = np.linalg.solve(np.linalg.cholesky(np.asarray(exact.covariance)), np.asarray(draws.x.mean(0) - exact.mean))
    assert np.sum(z**2) * n < 25
    spread = np.cov(np.asarray(draws.x).T) - np.asarray(exact.covariance)
    assert np.abs(spread).max() < 5 * np.sqrt(2 / n)
    closed = oracle.log_evidence(OPERATOR, Y, NOISE**2 * np.eye(2))
    np.testing.assert_allclose(draws.log_evidence, closed, atol=2e-3)
    assert draws.ess > 0.99 * n


@pytest.mark.accuracy
def test_a_gaussian_prior_is_recognised_and_answered_in_closed_form(x64, key):
    """Moments and evidence, with a singular covariance; then their derivatives by the measured values."""
    root = np.array([[1.0, 0.3, 0.0], [0.2, -0.8, 0.1], [0.0, 0.5, 0.6], [0.4, 0.0, -0.3]])
    oracle = frx.oracle.Gaussian(jnp.asarray([0.5, -1.0, 0.0, 2.0]), jnp.asarray(root @ root.T))
    exact = oracle.posterior(OPERATOR, Y, NOISE**2 * np.eye(2))
    model, n = oracle.model(frx.Linear()), 8000
    draws = frx.posterior(model, observation(), key, n)
    assert draws.method == "Conjugate" and draws.reason.startswith("Conjugate: the prior is Gaussian")
    spread = np.sqrt(np.diag(exact.covariance))
    assert np.all(np.abs(draws.x.mean(0) - exact.mean) < 4.5 * spread / np.sqrt(n))
    assert np.abs(np.cov(np.asarray(draws.x).T) - np.asarray(exact.covariance)).max() < 4.5 * np.sqrt(2 / n)
    closed = oracle.log_evidence(OPERATOR, Y, NOISE**2 * np.eye(2))
    np.testing.assert_allclose(draws.log_evidence, closed, atol=2e-3)
    assert draws.log_evidence_error == 0 and draws.ess > 0.999 * n

    def evidence(y):
        measured = frx.LinearGaussian(jnp.asarray(OPERATOR), y, NOISE)
        return frx.posterior(model, measured, key, 2, method=frx.inverse.Conjugate(), grid=24).log_evidence

    got = jax.grad(evidence)(jnp.asarray(Y))
    predicted = OPERATOR @ root @ root.T @ OPERATOR.T + NOISE**2 * np.eye(2)
    want = -np.linalg.solve(predicted, Y - OPERATOR @ np.asarray(oracle.mean))
    np.testing.assert_allclose(got, want, rtol=2e-3)


@pytest.mark.accuracy
def test_rows_of_an_observation_are_answered_one_by_one(key):
    """By the closed form, and by guidance whose warnings name the row."""
    oracle = frx.oracle.Gaussian([0.5, -1.0], [[1.0, 0.4], [0.4, 0.6]])
    model, row, y = oracle.model(frx.Linear()), np.array([[1.0, 0.5]]), np.array([[0.3], [-2.0], [1.0]])
    both = frx.posterior(model, frx.LinearGaussian(row, frx.Batched(y), 0.3), key, 40)
    assert both.x.shape == (3, 40, 2) and both.ess.shape == both.log_evidence.shape == (3,)
    for i, values in enumerate(y):
        alone = frx.posterior(model, frx.LinearGaussian(row, values, 0.3), jax.random.fold_in(key, i), 40)
        np.testing.assert_array_equal(both.x[i], alone.x)
        np.testing.assert_array_equal(both.log_evidence[i], alone.log_evidence)
        closed = oracle.log_evidence(row, values, 0.09 * np.eye(1))
        np.testing.assert_allclose(both.log_evidence[i], closed, atol=2e-3)


def test_a_prior_that_is_not_gaussian_is_not_conjugate(key):
    oracle = frx.oracle.GaussianMixture([0.5, 0.5], [[1.0], [-1.0]], [[[0.1]], [[0.1]]])
    measured = frx.LinearGaussian([[1.0]], [0.3], 0.5)
    with pytest.raises(ValueError, match="Conjugate needs a Gaussian prior, but the flow of this model is not affine"):
        frx.posterior(oracle.model(frx.Linear()), measured, key, 2, method=frx.inverse.Conjugate(), grid=4)
    nonlinear = frx.NonlinearGaussian(jnp.abs, [0.3], 0.5)
    with pytest.raises(ValueError, match="observation must be a linear measurement|observation must be"):
        frx.posterior(oracle.model(frx.Linear()), nonlinear, key, 2, method=frx.inverse.Conjugate(), grid=4)


@pytest.mark.accuracy
def test_derivatives_of_exact_draws(x64):
    """The mean and the evidence by the values of a measurement, against the closed form of a Gaussian."""
    covariance = np.array([[1.0, 0.4], [0.4, 0.6]])
    model = frx.oracle.Gaussian(jnp.zeros(2), jnp.asarray(covariance)).model(frx.Linear())
    row, noise = np.array([[1.0, 0.5]]), 0.5

    def answer(y):
        measured = frx.LinearGaussian(jnp.asarray(row), y, noise)
        draws = frx.posterior(model, measured, jax.random.key(0), 4000, method=frx.TemperedSMC(), grid=12)
        return draws.weights @ draws.x, draws.log_evidence

    y = jnp.asarray([0.7])
    mean, evidence = jax.jit(jax.jacrev(answer))(y)
    predicted = float((row @ covariance @ row.T)[0, 0] + noise**2)
    np.testing.assert_allclose(mean[:, 0], (covariance @ row.T)[:, 0] / predicted, rtol=0.12)
    np.testing.assert_allclose(evidence[0], -0.7 / predicted, rtol=0.05)


@pytest.mark.accuracy
def test_weights_correct_pigdm_where_it_is_not_exact(x64, key):
    means = jnp.asarray([[1.0, 0.0, 0.0, 0.0], [-1.0, 1.0, 0.0, 0.0], [0.0, -1.0, 1.0, 0.0]])
    oracle = frx.oracle.GaussianMixture(jnp.ones(3), means, jnp.stack([0.3 * jnp.eye(4)] * 3))
    exact = oracle.posterior(OPERATOR, Y, NOISE**2 * np.eye(2))
    options = dict(rtol=1e-4, atol=1e-4, method=frx.ImportanceSampling())
    with pytest.warns(UserWarning, match="k-hat of the weights is .* above 0.7"):
        draws = frx.posterior(oracle.model(frx.Linear()), observation(), key, 3000, **options)
    assert draws.khat > 0.7
    weights, x = np.asarray(draws.weights), np.asarray(draws.x)
    estimate, truth = weights @ x, np.asarray(exact.weights @ exact.means)
    error = np.sqrt(np.sum(weights[:, None] ** 2 * (x - estimate) ** 2, axis=0))
    assert np.all(np.abs(estimate - truth) < 4.5 * error)
    # Unweighted draws are visibly wrong, so the weights are what makes it right.
    assert np.abs(x.mean(0) - truth).max() > 5 * error.max()
    closed = float(oracle.log_evidence(OPERATOR, Y, NOISE**2 * np.eye(2)))
    assert abs(float(draws.log_evidence) - closed) < 4 / np.sqrt(float(draws.ess))


@pytest.mark.accuracy
def test_stochastic_guidance_reaches_the_same_posterior(x64, key):
    oracle = frx.oracle.Gaussian(jnp.zeros(4), jnp.eye(4))
    exact = oracle.posterior(OPERATOR, Y, NOISE**2 * np.eye(2))
    model = oracle.model(frx.VariancePreserving())
    draws = frx.posterior(model, observation(), key, 3000, dynamics=frx.ReverseSDE(), grid=200)
    z = np.linalg.solve(np.linalg.cholesky(np.asarray(exact.covariance)), np.asarray(draws.x.mean(0) - exact.mean))
    assert np.sum(z**2) * 3000 < 25
    assert np.abs(np.cov(np.asarray(draws.x).T) - np.asarray(exact.covariance)).max() < 5 * np.sqrt(2 / 3000)


@pytest.mark.accuracy
def test_gradient_through_posterior(x64, key):
    network = frx.nn.MLP((4,), key=key, width=8, depth=1, num_frequencies=2)
    model = frx.Model(network, frx.Linear(), shape=(4,), dtype=jnp.float64)
    model = jax.tree.map(lambda a: a.astype(jnp.float64) if eqx.is_inexact_array(a) else a, model)

    def mean(y, scale):
        measured = frx.LinearGaussian(jnp.asarray(OPERATOR), y, NOISE)
        scaled = jax.tree.map(lambda a: a * scale if eqx.is_inexact_array(a) else a, model)
        return jnp.sum(frx.posterior(scaled, measured, key, 2, method=frx.PiGDM(), grid=20).x ** 2)

    y, scale, step = jnp.asarray(Y), jnp.asarray(1.0), 1e-5
    both = jax.jit(jax.value_and_grad(mean, argnums=(0, 1)))
    direction = jnp.asarray([0.6, -0.8])
    _, (by_y, by_scale) = both(y, scale)
    numeric_y = (both(y + step * direction, scale)[0] - both(y - step * direction, scale)[0]) / (2 * step)
    numeric_scale = (both(y, scale + step)[0] - both(y, scale - step)[0]) / (2 * step)
    np.testing.assert_allclose(by_y @ direction, numeric_y, rtol=1e-5)
    np.testing.assert_allclose(by_scale, numeric_scale, rtol=1e-5)


def test_observation_and_its_errors():
    from scipy import stats

    measured = observation()
    x = jnp.asarray([0.1, -0.2, 0.3, 0.4])
    expected = stats.norm.logpdf(Y, OPERATOR @ np.asarray(x), NOISE).sum()
    np.testing.assert_allclose(measured.log_likelihood(x), expected, rtol=1e-5)
    with pytest.raises(ValueError, match=r"y has shape \(3,\) but \(2,\) is expected"):
        frx.LinearGaussian(OPERATOR, np.zeros(3), NOISE)
    model = frx.oracle.Gaussian(jnp.zeros(2), jnp.eye(2)).model(frx.Linear())
    with pytest.raises(ValueError, match="operator has 4 columns but the model's events"):
        frx.posterior(model, measured, jax.random.key(0), 2)


def test_few_effective_draws_are_doubted():
    """One weight of twenty that dominates, and equal weights."""
    from flowrax.verb.posterior_samples import PosteriorSamples, with_doubts

    def answer(log_weights):
        n = len(log_weights)
        zeros = jnp.zeros(n, jnp.int32)
        result = jax.vmap(lambda _: frx.RESULTS.where(jnp.asarray(True), frx.RESULTS.successful, frx.RESULTS.nonfinite))
        rows = jnp.zeros((n, 1))
        work = frx.Stats(zeros, zeros, zeros)
        return PosteriorSamples(rows, rows, jax.nn.log_softmax(log_weights), jnp.zeros(()), work, result(zeros))

    (sentence,) = with_doubts(answer(jnp.zeros(20).at[0].set(50.0)), "").warnings
    assert "effective sample size is 1.0 of 20 draws, so the evidence and its standard" in sentence
    assert with_doubts(answer(jnp.zeros(20)), "").warnings == ()


@pytest.mark.parametrize(("value", "said"), [(2.0, "must be an integer; got 2.0"), (0, "must be at least 1; got 0")])
def test_a_number_of_draws_is_a_positive_integer(value, said):
    from flowrax._base.checks import check_count

    with pytest.raises(ValueError, match=f"num_samples {said}"):
        check_count("num_samples", value)
