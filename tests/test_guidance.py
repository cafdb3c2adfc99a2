"""Guidance rules and twisted particles against the closed form of a correlated Gaussian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import flowrax as frx

RNG = np.random.default_rng(0)
SIZE, SEEN, NOISE = 16, 6, 0.1
DISTANCE = np.abs(np.linspace(0, 1, SIZE)[:, None] - np.linspace(0, 1, SIZE)) / 0.3
MATERN = (1 + np.sqrt(3) * DISTANCE) * np.exp(-np.sqrt(3) * DISTANCE)
SINGULAR = MATERN[:, :9] @ MATERN[:9]
OPERATOR = RNG.normal(size=(SEEN, SIZE))
Y = OPERATOR @ RNG.multivariate_normal(np.zeros(SIZE), MATERN) + NOISE * RNG.normal(size=SEEN)
T = np.asarray([0.01, 0.4, 0.97])


def observation(noise=NOISE):
    return frx.LinearGaussian(OPERATOR, Y, noise)


@pytest.mark.accuracy
@pytest.mark.parametrize("schedule", [frx.Linear(), frx.VariancePreserving()], ids=["Linear", "VP"])
@pytest.mark.parametrize("rule", [frx.TMPD(), frx.MMPS()], ids=["TMPD", "MMPS"])
def test_scores_are_those_of_the_posterior(rule, schedule, x64):
    """For correlated and singular data and for noise with a mean and a covariance of its own."""
    exact_rule = frx.MMPS(type(rule.solver)(1e-10, 1e-10)) if isinstance(rule, frx.MMPS) else rule
    x = np.asarray(jax.random.normal(jax.random.key(0), (3, SIZE)))
    uneven = frx.prior.Gaussian((SIZE,), mean=np.linspace(-0.5, 0.5, SIZE), std=np.linspace(0.5, 2.0, SIZE))
    for covariance, prior in ((MATERN, None), (SINGULAR, None), (MATERN, uneven)):
        oracle = frx.oracle.Gaussian(np.ones(SIZE), covariance)
        model = oracle.model(schedule, prior=prior)
        exact = oracle.posterior(OPERATOR, Y, NOISE**2 * np.eye(SEEN)).model(schedule, prior=prior)
        guided = frx.guidance.GuidedModel(model, observation(), exact_rule)
        got = jax.jit(jax.vmap(lambda t, x, m=guided: m.predict(t, x).score))(T, x)
        want = jax.vmap(lambda t, x, m=exact: m.predict(t, x).score)(T, x)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_the_density_of_the_measurement_given_the_state(x64):
    oracle, t, x = frx.oracle.Gaussian(np.ones(SIZE), MATERN), 0.4, np.linspace(-1, 1, SIZE)
    likelihood = frx.TMPD().likelihood(oracle.model(frx.Linear()), observation(), t, jnp.asarray(x), None)
    # The data given x_t, by conditioning on it as on a measurement with noise.
    given = oracle.posterior(t * np.eye(SIZE), x, (1 - t) ** 2 * np.eye(SIZE))
    covariance = OPERATOR @ np.asarray(given.covariance) @ OPERATOR.T + NOISE**2 * np.eye(SEEN)
    want = stats.multivariate_normal(OPERATOR @ np.asarray(given.mean), covariance).logpdf(Y)
    np.testing.assert_allclose(likelihood.score_and_log_density()[1], want, rtol=1e-8)


def test_dps_is_the_gradient_of_the_likelihood_at_the_denoised_data(x64):
    model, x = frx.oracle.Gaussian(np.ones(SIZE), MATERN).model(frx.Linear()), jnp.linspace(-1.0, 1.0, SIZE)
    _, got = frx.DPS(0.5)(model, observation(), 0.4, x, None)
    want = jax.grad(lambda x: 0.5 * observation().log_likelihood(model.predict(0.4, x).data))(x)
    np.testing.assert_allclose(got, want, rtol=1e-10)


def test_iterations_that_do_not_converge_fail(x64):
    import lineax as lx

    model = frx.oracle.Gaussian(np.ones(SIZE), MATERN).model(frx.Linear())
    rule = frx.MMPS(lx.GMRES(1e-10, 1e-10, max_steps=1, restart=2))
    _, score = rule(model, observation(), 0.4, jnp.zeros(SIZE), None)
    assert np.all(np.isnan(score))


@pytest.fixture(scope="module")
def twisted():
    oracle = frx.oracle.Gaussian(np.ones(SIZE), MATERN)
    method = frx.TwistedSMC(num_steps=200, num_islands=8)
    return oracle, frx.posterior(oracle.model(frx.Linear()), observation(), jax.random.key(1), 800, method=method)


@pytest.mark.accuracy
def test_twisted_particles(twisted):
    oracle, draws = twisted
    exact = oracle.posterior(OPERATOR, Y, NOISE**2 * np.eye(SEEN))
    closed = float(oracle.log_evidence(OPERATOR, Y, NOISE**2 * np.eye(SEEN)))
    # Student's t of eight islands, seven degrees of freedom.
    assert abs(float(draws.log_evidence) - closed) < 4.5 * float(draws.log_evidence_error) < 0.6
    weights, x = np.asarray(draws.weights), np.asarray(draws.x)
    mean = weights @ x
    std = np.sqrt(weights @ (x - mean) ** 2 / np.diag(exact.covariance))
    assert np.all(np.abs(std - 1) < 0.25) and abs(std.mean() - 1) < 0.1
    offset = (mean - np.asarray(exact.mean)) / np.sqrt(np.diag(exact.covariance))
    assert np.all(np.abs(offset) < 0.3)


def test_twisted_particles_need_islands_and_a_linear_measurement():
    model = frx.oracle.Gaussian(np.zeros(2), np.eye(2)).model(frx.Linear())
    seen = frx.LinearGaussian([[1.0, 0.0]], [0.5], 0.1)
    with pytest.raises(ValueError, match="num_samples=7 does not divide into 4 islands"):
        frx.posterior(model, seen, jax.random.key(0), 7, method=frx.TwistedSMC())
    other = frx.NonlinearGaussian(jnp.sin, jnp.zeros(2), 0.1)
    with pytest.raises(ValueError, match="observation must be"):
        frx.posterior(model, other, jax.random.key(0), 8, method=frx.TwistedSMC())
