"""Markov chains in noise space against closed forms and quadrature, and what they say where they have not mixed."""

import re

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import flowrax as frx
from flowrax._base.result import RESULTS, Stats
from flowrax.verb.noise_space import raise_unless_finished
from flowrax.verb.posterior_samples import answer_of, with_doubts

KEY = jax.random.key(0)
GRID = np.linspace(-8, 8, 4001)
SLICE = frx.NoiseSpaceMCMC(frx.inverse.EllipticalSlice(), num_warmup=50, num_steps=500)


def identity(z):
    return z


class Table(eqx.Module):
    """A log-likelihood that is constant around each point of the grid, so that one compilation serves all of them."""

    values: jax.Array

    def __call__(self, x):
        return self.values[jnp.round((x[0] + 8) / 16 * 4000).astype(int)]


class Counts(eqx.Module):
    """Poisson counts of the rate exp(2 x)."""

    y: jax.Array

    def log_likelihood(self, x):
        return jax.scipy.stats.poisson.logpmf(self.y, jnp.exp(2 * x[0]))


def solved(values, num_samples=800, key=KEY, method=SLICE):
    likelihood = Table(jnp.asarray(values, jnp.float32))
    return method(frx.inverse.NoiseProblem(identity, likelihood, (1,), jnp.dtype(jnp.float32)), key, num_samples)


def moments(values):
    """The posterior mean and standard deviation under a standard normal prior, by quadrature."""
    terms = stats.norm.logpdf(GRID) + values
    weights = np.exp(terms - terms.max())
    weights /= weights.sum()
    mean = weights @ GRID
    return mean, np.sqrt(weights @ (GRID - mean) ** 2)


def agrees(x, effective_size, mean, std):
    """Whether the mean and the standard deviation of draws lie within 4.5 standard errors of nearly normal draws."""
    error = std / np.sqrt(effective_size)
    assert np.all(np.abs(np.mean(x, axis=0) - mean) < 4.5 * error), (np.mean(x, axis=0), mean, error)
    # The variance mixes slower than the mean: a third as many draws.
    ratio, tolerance = np.std(x, axis=0) / std, 4.5 * np.sqrt(3 / (2 * effective_size))
    assert np.all(np.abs(ratio - 1) < tolerance), (ratio, tolerance)


COUNTS = stats.poisson.logpmf(3, np.exp(2 * GRID))


@pytest.mark.accuracy
def test_elliptical_slices_of_counts():
    draws = solved(COUNTS)
    agrees(np.asarray(draws.x[:, 0]), float(draws.effective_size), *moments(COUNTS))
    assert float(draws.r_hat) < 1.02 and draws.warnings == () and draws.acceptance is None
    assert float(draws.effective_size) > 300
    assert np.array_equal(draws.x, draws.z)
    # 4 chains of 550 transitions of one to some proposals, their starts from 1,024 draws of the prior, 800 events.
    assert 4 * 550 + 1024 + 800 < 800 * int(draws.num_evaluations) < 5 * 4 * 550
    # The key decides the draws.
    assert np.array_equal(draws.x, solved(COUNTS).x)
    assert not np.array_equal(draws.x, solved(COUNTS, key=jax.random.key(1)).x)


@pytest.mark.accuracy
def test_chains_in_different_modes_are_flagged():
    """Chains that rarely change between narrow modes hold different shares of them."""
    modes = np.logaddexp(stats.norm.logpdf(GRID, -0.5, 0.004), stats.norm.logpdf(GRID, 1.5, 0.004))
    draws = solved(modes)
    shares = np.mean(draws.x[:, 0].reshape(4, 200) > 0, axis=1)
    assert np.ptp(shares) > 0.3
    assert float(draws.r_hat) > 1.05 and float(draws.effective_size) < 80
    none = jnp.zeros(800, int)
    answer = answer_of(draws, object(), Stats(none, none, none), jax.vmap(lambda _: RESULTS.successful)(none))
    answer = with_doubts(answer, "")
    texts = answer.warnings
    assert re.search(r"the chains are worth [\d.]+ independent draws of 800; pass frx.NoiseSpaceMCMC", texts[0])
    assert re.search(r"R-hat is [\d.]+, above 1.01, so the chains have not mixed", texts[1])
    assert float(answer.ess) == float(draws.effective_size)


@pytest.mark.accuracy
def test_hard_constraints_and_undefined_likelihoods():
    above = np.where(GRID > 1, 0.0, -np.inf)
    draws = solved(above)
    assert np.min(draws.x) > 1 - 16 / 4000
    want = stats.truncnorm(1, np.inf)
    agrees(np.asarray(draws.x[:, 0]), float(draws.effective_size), want.mean(), want.std())
    assert draws.warnings == ()
    undefined = solved(np.where(GRID > 1, 0.0, np.nan))
    assert np.array_equal(undefined.x, draws.x)
    assert re.search(r"NaN or plus infinity, or the flow failed, for \d+ of 1024 draws", undefined.warnings[0])
    nowhere = solved(np.full(4001, -np.inf))
    with pytest.raises(
        frx.SolveError, match="NoiseSpaceMCMC did not reach the posterior: .* no particle or start has a"
    ):
        raise_unless_finished("NoiseSpaceMCMC", nowhere)


@pytest.mark.accuracy
@pytest.mark.parametrize("kernel", [frx.inverse.NUTS(), frx.inverse.MALA()], ids=["NUTS", "MALA"])
def test_gradients_of_counts(kernel):
    problem = frx.inverse.NoiseProblem(identity, Counts(jnp.asarray(3)).log_likelihood, (1,), jnp.dtype(jnp.float32))
    method = frx.NoiseSpaceMCMC(kernel, num_warmup=200, num_steps=500)
    draws = method(problem, KEY, 1001)
    assert draws.x.shape == (1001, 1)
    agrees(np.asarray(draws.x[:, 0]), float(draws.effective_size), *moments(COUNTS))
    assert float(draws.r_hat) < 1.02 and float(draws.effective_size) > 300 and draws.warnings == ()
    assert abs(float(draws.acceptance[0]) - kernel.target_acceptance) < 0.17


@pytest.mark.accuracy
def test_linear_posterior_through_a_flow():
    """The closed form, by Hamiltonian chains whose gradients pass through the flow."""
    oracle = frx.oracle.Gaussian([0.5, -1.0, 0.0], [[1.0, 0.4, 0.2], [0.4, 0.6, 0.0], [0.2, 0.0, 0.8]])
    operator, y, noise = np.array([[1.0, 0.5, -0.3], [0.0, -1.0, 0.7]]), np.array([1.0, -0.5]), 0.2
    exact = oracle.posterior(operator, y, noise**2 * np.eye(2))
    method = frx.NoiseSpaceMCMC(frx.inverse.HMC(), num_warmup=300, num_steps=500)
    observation = frx.LinearGaussian(operator, y, noise)
    draws = frx.posterior(oracle.model(frx.Linear()), observation, KEY, 1000, method=method, solver=dfx.Heun(), grid=16)
    agrees(np.asarray(draws.x), float(draws.ess), np.asarray(exact.mean), np.sqrt(np.diag(exact.covariance)))
    assert draws.method == "NoiseSpaceMCMC" and draws.log_evidence is None and draws.warnings == ()
    assert float(draws.ess) > 300 and draws.residual.shape == (1000, 2)


@pytest.mark.accuracy
def test_inside_jit_and_vmap(x64):
    """The same draws for each count as one at a time, in double precision; the diagnostics need the host."""
    method = frx.NoiseSpaceMCMC(frx.inverse.EllipticalSlice(), num_warmup=20, num_steps=8)

    @eqx.filter_jit
    def both(tables):
        def one(values):
            problem = frx.inverse.NoiseProblem(identity, Table(values), (1,), jnp.dtype(jnp.float64))
            return method(problem, KEY, 16)

        return jax.vmap(one)(tables)

    tables = jnp.asarray([COUNTS, stats.poisson.logpmf(9, np.exp(2 * GRID))])
    together = both(tables)
    assert together.x.dtype == jnp.float64 and together.r_hat is None and together.effective_size is None
    np.testing.assert_allclose(both(tables[1:]).x[0], together.x[1])
    assert together.x[1].mean() > together.x[0].mean()


def test_the_gradient_is_guarded():
    """Density and gradient in closed form; zero and minus infinity where float32 would overflow, and for NaN."""
    target = frx.inverse.Target(
        frx.inverse.NoiseProblem(identity, lambda x: -jnp.exp(x[0]) + jnp.log(x[1]), (2,), jnp.dtype(jnp.float32))
    )
    points = jnp.asarray([[1.0, 2.0], [60.0, 2.0], [1.0, -1.0], [1.0, 0.0]])
    values, gradients = jax.vmap(jax.value_and_grad(target.log_density))(points)
    np.testing.assert_allclose(values, [-np.e + np.log(2) - 2.5, -np.inf, -np.inf, -np.inf], rtol=1e-5)
    np.testing.assert_allclose(gradients, [[-np.e - 1, 0.5 - 2], [0, 0], [0, 0], [0, 0]], rtol=1e-5)


def test_refusals():
    with pytest.raises(ValueError, match="num_chains must be at least 2; got 1"):
        frx.NoiseSpaceMCMC(num_chains=1)
    with pytest.raises(ValueError, match="kernel must be"):
        frx.NoiseSpaceMCMC("NUTS")
    with pytest.raises(ValueError, match="target_acceptance must lie between 0 and 1, both excluded; got 1.0"):
        frx.inverse.NUTS(target_acceptance=1.0)
