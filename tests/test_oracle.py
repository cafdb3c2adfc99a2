"""Oracles against scipy, quadrature, differential identities and brute force; stable where it is hard."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

import flowrax as frx
from laws import SCHEDULES, assert_moments, covariances, mixture, moments

# sigma = 0 leaves these degenerate: no density at t = 1.
POINT_MASSES = ([0.3, 0.7], [[1.0, -2.0], [0.5, 3.0]], np.zeros((2, 2, 2)))


def scipy_log_density(oracle, alpha, sigma, x):
    """Of `alpha x1 + sigma x0` for a mixture, by scipy in float64."""
    weights, means, covs = (np.asarray(v, np.float64) for v in (oracle.weights, oracle.means, oracle.covariances))
    eye = np.eye(means.shape[1])
    logs = [
        np.log(w) + scipy.stats.multivariate_normal(alpha * m, alpha**2 * c + sigma**2 * eye).logpdf(x)
        for w, m, c in zip(weights, means, covs, strict=True)
    ]
    return scipy.special.logsumexp(np.stack(logs), axis=0)


def make_gaussian(dtype=None):
    mean = jnp.asarray([0.5, -1.0, 2.0], dtype)
    return frx.oracle.Gaussian(mean, covariances(jax.random.key(3), 1, 3, dtype)[0])


@pytest.mark.accuracy
def test_log_prob_of_mixture(key, x64):
    oracle = mixture(25, 3, jnp.float64)
    x = np.asarray(oracle.sample(key, (4, 50)))
    assert np.allclose(oracle.log_prob(x), scipy_log_density(oracle, 1, 0, x), rtol=0, atol=1e-10)


def test_log_prob_of_gaussian(key, x64):
    oracle = make_gaussian(jnp.float64)
    x = np.asarray(oracle.sample(key, (50,)))
    want = scipy.stats.multivariate_normal(np.asarray(oracle.mean), np.asarray(oracle.covariance)).logpdf(x)
    assert np.allclose(oracle.log_prob(x), want, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", SCHEDULES)
def test_marginal_log_prob(name, key, x64):
    oracle, schedule = mixture(25, 2, jnp.float64), SCHEDULES[name]
    marginal = jax.jit(lambda t, x: oracle.marginal_log_prob(schedule, t, x))
    for t in (0.0, 0.3, 0.9, 1.0):
        alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
        x = np.asarray(alpha * oracle.sample(key, (50,)) + sigma * jax.random.normal(key, (50, 2)))
        got = marginal(t, x)
        assert np.allclose(got, scipy_log_density(oracle, alpha, sigma, x), rtol=0, atol=1e-9)


def continuity(model, t, x):
    """d/dt log p + v . grad log p + div v, which vanishes, and the score's error, at one event."""

    def log_density(t, x):
        return model.oracle.marginal_log_prob(model.schedule, t, x[None])[0]

    rate, gradient = jax.grad(log_density, (0, 1))(t, x)
    prediction = model.predict(t, x)
    jacobian = jax.jacfwd(lambda x: model.predict(t, x).velocity)(x)
    residual = rate + prediction.velocity @ gradient + jnp.trace(jacobian)
    scale = jnp.abs(rate) + jnp.abs(jnp.trace(jacobian))
    return residual / (1 + scale), (prediction.score - gradient) / (1 + jnp.max(jnp.abs(gradient)))


@pytest.mark.parametrize("name", SCHEDULES)
def test_velocity_and_score_solve_the_continuity_equation(name, key, x64):
    model = mixture(5, 2, jnp.float64).model(SCHEDULES[name])
    times = jnp.asarray([0.01, 0.2, 0.5, 0.8, 0.99])
    check = jax.jit(jax.vmap(jax.vmap(lambda t, x: continuity(model, t, x), (None, 0))))
    alpha, sigma = model.schedule.alpha(times)[:, None, None], model.schedule.sigma(times)[:, None, None]
    data, noise = model.oracle.sample(key, (5, 40)), jax.random.normal(key, (5, 40, 2))
    residual, score_error = check(times, alpha * data + sigma * noise)
    assert np.max(np.abs(residual)) <= 1e-10
    assert np.max(np.abs(score_error)) <= 1e-10


@pytest.mark.parametrize("name", SCHEDULES)
def test_expected_data_and_noise_by_quadrature(name, x64):
    """Bayes' rule on a fine grid of data in one dimension: nothing of the Gaussian algebra is used."""
    weights, means, stds = np.array([0.2, 0.5, 0.3]), np.array([-2.0, 0.1, 1.5]), np.array([0.4, 0.2, 0.7])
    oracle = frx.oracle.GaussianMixture(weights, means[:, None], stds[:, None, None] ** 2)
    grid = np.linspace(-7, 7, 200_001)
    prior = np.exp(scipy.special.logsumexp(scipy.stats.norm(means, stds).logpdf(grid[:, None]), axis=1, b=weights))
    schedule, model = SCHEDULES[name], oracle.model(SCHEDULES[name])
    predict = jax.jit(lambda t, x: (model.predict(t, x).data, model.predict(t, x).noise))
    for t in (0.1, 0.5, 0.8):
        alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
        for x in (-1.3 * alpha, 0.4 * alpha + 0.5 * sigma):
            posterior = prior * scipy.stats.norm(x, sigma).pdf(alpha * grid)
            data = np.sum(posterior * grid) / np.sum(posterior)
            got_data, got_noise = predict(t, np.array([x]))
            assert float(got_data[0]) == pytest.approx(data, rel=1e-8, abs=1e-8)
            assert float(got_noise[0]) == pytest.approx((x - alpha * data) / sigma, rel=1e-7, abs=1e-7)


# A fat operator, a square one and a tall one.
OPERATORS = {1: [[1.0, -0.5]], 2: [[1.0, 0.3], [0.2, -1.0]], 3: [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]}


@pytest.mark.accuracy
@pytest.mark.parametrize("size", OPERATORS)
def test_posterior_and_evidence_by_brute_force(size, x64):
    """Prior times likelihood, normalised by a sum over a grid of the plane."""
    oracle = mixture(4, 2, jnp.float64)
    a, noise = np.array(OPERATORS[size]), 0.2 * np.eye(size) + 0.05
    y = a @ np.asarray(oracle.means)[1] + 0.3
    side = np.linspace(-13, 13, 401)
    grid = np.stack(np.meshgrid(side, side, indexing="ij"), -1).reshape(-1, 2)
    joint = scipy_log_density(oracle, 1, 0, grid) + scipy.stats.multivariate_normal(cov=noise).logpdf(grid @ a.T - y)
    evidence = scipy.special.logsumexp(joint) + 2 * np.log(side[1] - side[0])
    assert float(oracle.log_evidence(a, y, noise)) == pytest.approx(evidence, abs=1e-8)
    near = np.argsort(joint)[-1000:]
    got = oracle.posterior(a, y, noise).log_prob(grid[near])
    assert np.allclose(got, joint[near] - evidence, rtol=0, atol=1e-8)


def test_posterior_of_gaussian_is_the_conditional_of_the_joint(x64):
    """The conditional of the Gaussian of (x, y), from its precision matrix."""
    oracle = make_gaussian(jnp.float64)
    a, noise = np.array([[1.0, 2.0, -1.0], [0.0, 1.0, 0.5]]), np.array([[0.3, 0.1], [0.1, 0.2]])
    y = np.array([0.4, -1.0])
    mean, cov = np.asarray(oracle.mean), np.asarray(oracle.covariance)
    lift = np.vstack([np.eye(3), a])
    joint = lift @ cov @ lift.T
    joint[3:, 3:] += noise
    precision = np.linalg.inv(joint)
    want_cov = np.linalg.inv(precision[:3, :3])
    want_mean = mean - want_cov @ precision[:3, 3:] @ (y - a @ mean)
    posterior = oracle.posterior(a, y, noise)
    assert np.allclose(posterior.mean, want_mean, rtol=0, atol=1e-9)
    assert np.allclose(posterior.covariance, want_cov, rtol=0, atol=1e-9)
    want = scipy.stats.multivariate_normal(a @ mean, joint[3:, 3:]).logpdf(y)
    assert float(oracle.log_evidence(a, y, noise)) == pytest.approx(want, abs=1e-10)


@pytest.mark.parametrize("name", SCHEDULES)
def test_flow_of_gaussian(name, x64):
    """Its time derivative is the velocity, it starts at the identity and it composes."""
    oracle, schedule = make_gaussian(jnp.float64), SCHEDULES[name]
    model, x = oracle.model(schedule), jnp.asarray([[0.3, -0.2, 1.0], [2.0, 0.5, -1.0]])
    assert np.allclose(oracle.flow(schedule, 0.3, 0.3, x), x, rtol=0, atol=1e-12)
    there = oracle.flow(schedule, 0.3, 0.7, x)
    assert np.allclose(
        oracle.flow(schedule, 0.7, 1.0, there), oracle.flow(schedule, 0.3, 1.0, x), rtol=1e-11, atol=1e-11
    )
    _, rate = jax.jvp(lambda t: oracle.flow(schedule, 0.3, t, x), (jnp.asarray(0.7),), (jnp.asarray(1.0),))
    velocity = jax.vmap(lambda x: model.predict(jnp.asarray(0.7), x).velocity)(there)
    assert np.allclose(rate, velocity, rtol=1e-9, atol=1e-9)


@pytest.mark.accuracy
def test_moments_of_samples(key, x64):
    """Mean and second moments of 20,000 draws within 5 standard errors."""
    oracle = mixture(6, 2, jnp.float64)
    assert_moments(oracle.sample(key, (20_000,)), *moments(oracle))


@pytest.mark.accuracy
def test_samples_fall_on_components_by_weight(key, x64):
    """Far-apart components: counts within 5 binomial standard errors."""
    weights = np.array([0.1, 0.6, 0.3])
    oracle = frx.oracle.GaussianMixture(weights, 100.0 * jnp.arange(3.0)[:, None], jnp.ones((3, 1, 1)))
    x = np.asarray(oracle.sample(key, (10_000,)))
    share = np.bincount(np.rint(x[:, 0] / 100).astype(int), minlength=3) / 10_000
    assert np.all(np.abs(share - weights) <= 5 * np.sqrt(weights * (1 - weights) / 10_000))


@pytest.mark.accuracy
def test_a_weight_of_zero_counts_for_nothing(x64):
    with_ghost = frx.oracle.GaussianMixture(*map(np.array, ([0.0, 2.0], [[50.0], [1.0]], [[[1.0]], [[4.0]]])))
    x = np.linspace(-3, 60, 7)[:, None]
    assert np.allclose(with_ghost.log_prob(x), scipy.stats.norm(1, 2).logpdf(x[:, 0]), rtol=1e-12, atol=0)


@pytest.mark.accuracy
@pytest.mark.parametrize("name", SCHEDULES)
def test_thousand_components_in_float32(name, key):
    """All of a prediction against float64, relative to its size, from t = 0 to t = 1 inclusive."""
    single = mixture(1000, 3, jnp.float32)
    times = np.array([0, 1e-4, 0.5, 0.999, 1], np.float32)
    with jax.enable_x64(True):
        parts = (np.asarray(v, np.float64) for v in (single.weights, single.means, single.covariances))
        double = frx.oracle.GaussianMixture(*parts)
        data, noise = double.sample(key, (5, 40)), jax.random.normal(key, (5, 40, 3))
        scales = SCHEDULES[name].scales(jnp.asarray(times, np.float64))
        x = scales.alpha[:, None, None] * data + scales.sigma[:, None, None] * noise
        x = np.asarray(x, np.float32)
        want = evaluate(double.model(SCHEDULES[name]), times.astype(np.float64), x.astype(np.float64))
    got = evaluate(single.model(SCHEDULES[name]), times, x)
    for quantity, value in got.items():
        assert value.dtype == np.float32
        size = np.maximum(1, np.abs(want[quantity]).max(axis=(1, 2), keepdims=True))
        assert np.max(np.abs(value - want[quantity]) / size) <= 2e-3, quantity


def evaluate(model, times, x):
    def one(t, x):
        p = model.predict(t, x)
        log_prob = model.oracle.marginal_log_prob(model.schedule, t, x[None])
        return {"data": p.data, "noise": p.noise, "velocity": p.velocity, "score": p.score, "log_prob": log_prob}

    answer = jax.jit(jax.vmap(jax.vmap(one, (None, 0))))(jnp.asarray(times), jnp.asarray(x))
    return jax.tree.map(np.asarray, answer)


def test_vanishing_noise_in_float32():
    """Point masses seen through noise down to 1e-12: the nearest is the answer, the score is (m - x) / sigma^2."""
    oracle = frx.oracle.GaussianMixture(*(jnp.asarray(v, jnp.float32) for v in POINT_MASSES))
    terms = eqx.filter_jit(oracle.posterior_terms)
    one = jnp.ones(())
    for sigma in (1e-3, 1e-6, 1e-9, 1e-12):
        x = jnp.asarray([1.0, -2.0 + sigma], jnp.float32)
        log_density, data, score = terms(one, jnp.asarray(sigma, jnp.float32), x)
        offset = (np.array([1.0, -2.0]) - np.asarray(x, np.float64)) / sigma
        want = np.log(0.3) - 0.5 * np.sum(offset**2) - 2 * np.log(sigma) - np.log(2 * np.pi)
        assert float(log_density) == pytest.approx(want, rel=1e-5)
        assert np.allclose(data, [1.0, -2.0], rtol=0, atol=1e-6)
        assert np.allclose(score * sigma, offset, rtol=1e-5, atol=0)
