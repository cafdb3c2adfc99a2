"""Tempered SMC against closed forms and quadrature: posteriors, evidences and their error bars."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import flowrax as frx
from flowrax.inverse.reference import Reference, fitted_reference

OPERATOR, Y, NOISE = np.array([[1.0, 0.5, -0.3], [0.0, -1.0, 0.7]]), np.array([1.0, -0.5]), 0.2
KEY = jax.random.key(0)
METHOD = frx.TemperedSMC(num_islands=8, num_particles=16)


def linear_gaussian():
    return frx.LinearGaussian(OPERATOR, Y, NOISE)


def of_islands(values, islands=8):
    """The mean over the islands, and its standard error from their spread."""
    means = np.asarray(values, float).reshape(islands, -1, *values.shape[1:]).mean(axis=1)
    return means.mean(axis=0), means.std(axis=0, ddof=1) / np.sqrt(islands)


def test_moves_are_reversible(x64):
    """The ratio of acceptance from the densities of target and proposal, one by one."""
    rng = np.random.default_rng(0)
    root = rng.normal(size=(3, 3))
    covariance, mean = root @ root.T + 0.1 * np.eye(3), rng.normal(size=3)
    values, vectors = np.linalg.eigh(covariance)
    reference = Reference(*map(jnp.asarray, (mean, vectors, values)))
    z, scale, noise = rng.normal(size=(5, 3)), rng.uniform(0.1, 0.9, 5), rng.normal(size=(5, 3))
    moved = np.asarray(reference.propose(*map(jnp.asarray, (z, scale, noise))))
    got = np.asarray(reference.log_correction(jnp.asarray(moved)) - reference.log_correction(jnp.asarray(z)))

    def proposal(end, start, s):
        return stats.multivariate_normal(mean + np.sqrt(1 - s**2) * (start - mean), s**2 * covariance).logpdf(end)

    want = [
        stats.norm.logpdf(b).sum() + proposal(a, b, s) - stats.norm.logpdf(a).sum() - proposal(b, a, s)
        for a, b, s in zip(z, moved, scale, strict=True)
    ]
    np.testing.assert_allclose(got, want, rtol=1e-8)
    # The noise of the proposal has the covariance of the reference.
    unit = np.asarray(reference.propose(jnp.asarray(np.tile(mean, (3, 1))), jnp.ones(3), jnp.eye(3))) - mean
    np.testing.assert_allclose(unit.T @ unit, covariance, rtol=1e-10)


def test_a_reference_keeps_what_the_noise_of_a_covariance_cannot_explain(x64):
    """Population eigenvalues are recovered from what they become in the limit of many particles and dimensions."""
    population, gamma = np.array([0.05, 1.0, 1.0, 6.0]), 4 / 100
    sample = np.where(population == 1, [1.0, 0.7, 1.3, 1.0], population * (1 + gamma / (population - 1 + 1e-300)))
    vectors = np.linalg.qr(np.random.default_rng(1).normal(size=(4, 4)))[0]
    mean = vectors @ np.array([2.0, 0.1, -0.1, 1.0])
    covariance = vectors @ np.diag(sample) @ vectors.T
    got = fitted_reference(jnp.asarray(mean), jnp.asarray(covariance), jnp.asarray(100.0))
    np.testing.assert_allclose(np.sort(got.values), population, rtol=1e-9)
    np.testing.assert_allclose(vectors.T @ np.asarray(got.mean), [2.0, 0.0, 0.0, 1.0], atol=1e-9)


@pytest.fixture(scope="module")
def gaussian():
    oracle = frx.oracle.Gaussian([0.5, -1.0, 0.0], [[1.0, 0.4, 0.2], [0.4, 0.6, 0.0], [0.2, 0.0, 0.8]])
    return oracle, oracle.model(frx.Linear())


@pytest.mark.accuracy
def test_gaussian_posterior_and_evidence(gaussian):
    oracle, model = gaussian
    exact = oracle.posterior(OPERATOR, Y, NOISE**2 * np.eye(2))
    draws = frx.posterior(model, linear_gaussian(), KEY, 2400, method=METHOD)
    # Each island estimates the posterior on its own; eight of them give Student's t with seven degrees of freedom.
    mean, error = of_islands(draws.x)
    # No fewer than independent draws can give, which eight islands may understate.
    error = np.maximum(error, np.sqrt(np.diag(exact.covariance) / 2400))
    assert np.all(np.abs(mean - np.asarray(exact.mean)) < 4.5 * error), (mean, error)
    offset = np.asarray(draws.x) - np.asarray(exact.mean)
    covariance, error = of_islands(offset[:, :, None] * offset[:, None, :])
    assert np.all(np.abs(covariance - np.asarray(exact.covariance)) < 4.5 * error)
    # The bars are no excuse: the draws are as good as a tenth as many independent ones.
    assert np.all(error < 5 * np.sqrt(10 / 2400) * np.max(np.diag(exact.covariance)))
    closed = float(oracle.log_evidence(OPERATOR, Y, NOISE**2 * np.eye(2)))
    assert abs(float(draws.log_evidence) - closed) < 4.5 * float(draws.log_evidence_error) < 0.4
    assert draws.residual.shape == (2400, 2)
    assert float(draws.temperatures[-1]) == 1 and np.all(np.diff(draws.temperatures) > 0)
    assert draws.acceptance.shape == draws.temperatures.shape


@pytest.mark.accuracy
def test_weights_of_modes():
    means = np.array([[2.0, 0.0], [-2.0, 1.0]])
    oracle = frx.oracle.GaussianMixture([0.3, 0.7], means, np.stack([0.2 * np.eye(2)] * 2))
    operator, y, noise = np.array([[0.3, 1.0]]), np.array([0.6]), 0.5
    exact = oracle.posterior(operator, y, noise**2 * np.eye(1))
    observation = frx.LinearGaussian(operator, y, noise)
    draws = frx.posterior(oracle.model(frx.Linear()), observation, KEY, 1600, method=METHOD, grid=32)
    first, weights = np.asarray(draws.x[:, 0]) > 0, np.asarray(draws.weights)
    want = float(exact.weights[0])
    _, error = of_islands(1.0 * first)
    assert abs(weights[first].sum() - want) < 4.5 * error and error < 0.05, (weights[first].sum(), want, error)
    closed = float(oracle.log_evidence(operator, y, noise**2 * np.eye(1)))
    assert abs(float(draws.log_evidence) - closed) < 4.5 * float(draws.log_evidence_error) < 0.3


def identity(z):
    return z


class Folded:
    """A user's measurement of |x|, in plain Python."""

    def __init__(self, y, noise_std):
        self.y, self.noise_std = y, noise_std

    def log_likelihood(self, x):
        return jax.scipy.stats.norm.logpdf(self.y, jnp.abs(x[0]), self.noise_std)


def solved(log_likelihood, num_samples=1600, key=KEY, size=1, method=METHOD):
    problem = frx.inverse.NoiseProblem(identity, log_likelihood, (size,), jnp.dtype(jnp.float32))
    return method(problem, key, num_samples)


def quadrature(log_likelihood):
    """Grid points, their posterior weights and the log-evidence under a standard normal prior in one dimension."""
    grid = np.linspace(-8, 8, 4001)
    terms = stats.norm.logpdf(grid) + np.asarray(jax.vmap(log_likelihood)(jnp.asarray(grid)[:, None]))
    density = np.exp(terms - terms.max())
    return grid, density / density.sum(), np.log(density.sum() * (grid[1] - grid[0])) + terms.max()


@pytest.mark.accuracy
def test_a_measurement_of_the_users_own():
    """The absolute value, twice with other readings: what was compiled for one object serves no other."""
    observation = Folded(1.2, 0.1)
    model = frx.oracle.Gaussian(np.zeros(1), np.eye(1)).model(frx.Linear())
    for y in (1.2, 0.4):
        observation.y = y
        grid, weights, closed = quadrature(observation.log_likelihood)
        draws = frx.posterior(model, observation, KEY, 1600, method=METHOD, grid=8)
        assert draws.residual is None
        size, error = of_islands(np.abs(draws.x[:, 0]))
        assert abs(size - weights @ np.abs(grid)) < 4.5 * error and error < 0.02
        sign, error = of_islands(np.sign(draws.x[:, 0]))
        assert abs(sign) < 4.5 * error and error < 0.2
        assert abs(float(draws.log_evidence) - closed) < 4.5 * float(draws.log_evidence_error) < 0.4


@pytest.mark.accuracy
def test_counts():
    observation = frx.Poisson(lambda x: jnp.exp(2 * x), [3])
    grid, weights, closed = quadrature(observation.log_likelihood)
    draws = solved(observation.log_likelihood)
    mean, error = of_islands(draws.x[:, 0])
    assert abs(mean - weights @ grid) < 4.5 * error and error < 0.03
    square, error = of_islands(draws.x[:, 0] ** 2)
    assert abs(square - weights @ grid**2) < 4.5 * error and error < 0.03
    assert abs(float(draws.log_evidence) - closed) < 4.5 * float(draws.log_evidence_error) < 0.3


@pytest.mark.accuracy
def test_hard_constraints_and_lost_islands():
    """The evidence of a half line, P(z > 1), whose estimate is a share of the first particles, and too few of them."""

    def above(x):
        return jnp.where(x[0] > 1, 0.0, -jnp.inf)

    draws = solved(above)
    assert np.min(draws.x) > 1
    share = stats.norm.sf(1)
    error = np.sqrt((1 - share) / share / 1600)
    assert abs(float(draws.log_evidence) - np.log(share)) < 3.5 * error
    assert 0.4 * error < float(draws.log_evidence_error) < 1.8 * error
    mean, error = of_islands(draws.x[:, 0])
    assert abs(mean - stats.truncnorm.mean(1, np.inf)) < 4.5 * error < 0.1
    lost = solved(above, 32)
    assert re.search("TemperedSMC: [1-8] of 8 islands have no particle of positive likelihood", lost.warnings[0])
    assert float(lost.log_evidence_error) == np.inf
    undefined = solved(lambda x: jnp.where(x[0] > 0, jnp.nan, 0.0))
    assert "log-likelihood was NaN or plus infinity, or the flow failed, in" in undefined.warnings[0]


@pytest.mark.accuracy
def test_islands_that_miss_a_mode_disagree():
    """A narrow mode holds nearly all of the evidence, and few of the particles start near it."""

    def two(x):
        narrow = 10 + jax.scipy.stats.norm.logpdf(x[0], 2.5, 0.003)
        return jnp.logaddexp(jax.scipy.stats.norm.logpdf(x[0], -1.0, 1.0), narrow)

    draws = solved(two, 160)
    assert re.search("islands have a standard deviation of .* nats, so some of them lack modes", draws.warnings[0])
    assert float(draws.log_evidence_error) > 0.4


def test_the_key_decides_the_draws_and_the_limit_is_told(gaussian):
    def fold(x):
        return -0.5 * ((jnp.abs(x[0]) - 1) / 0.1) ** 2

    first, again = (solved(fold, 80, jax.random.key(3)) for _ in range(2))
    assert np.array_equal(first.x, again.x)
    assert not np.array_equal(first.x, solved(fold, 80, jax.random.key(4)).x)
    short = frx.TemperedSMC(num_islands=8, num_particles=16, max_temperatures=1)
    with pytest.raises(frx.SolveError, match="TemperedSMC did not reach the posterior: its limit of temperatures"):
        frx.posterior(gaussian[1], linear_gaussian(), KEY, 160, method=short, grid=4)


class Vector:
    def log_likelihood(self, x):
        return x


REFUSED = {
    "TemperedSMC weights its own draws on a fixed grid of the flow and takes no rtol; pass grid= and": dict(rtol=1e-3),
    "condition is Batched, but the draws of a posterior method share one condition": dict(
        condition=frx.Batched(jnp.zeros((8, 1)))
    ),
    "log_likelihood of the Vector must return one real number for one event; got shape (3,)": dict(
        observation=Vector()
    ),
    "observation must be an object with the methods log_likelihood; got": dict(observation=object()),
    "operator has 1 columns but the model's events": dict(observation=frx.LinearGaussian([[1.0]], [0.0], 1.0)),
}


@pytest.mark.parametrize("message", REFUSED)
def test_refusals(message, gaussian):
    options = {"observation": linear_gaussian(), "num_samples": 8, "method": frx.TemperedSMC(), **REFUSED[message]}
    with pytest.raises(ValueError, match=re.escape(message)):
        frx.posterior(gaussian[1], key=KEY, **options)


def test_ranges():
    with pytest.raises(ValueError, match="ess must lie between 0 and 1, both excluded; got 1.0"):
        frx.TemperedSMC(ess=1.0)
