"""Simulated posteriors: exact ones of the library, and ones that fail."""

import jax
import numpy as np
import pytest
from scipy import stats

import flowrax as frx
from flowrax import diagnostics as dg

STD = np.sqrt(0.5)
MODEL = frx.oracle.Gaussian(np.zeros(2, np.float32), np.eye(2, dtype=np.float32)).model(frx.Linear())


def observe(key, x):
    """The first coordinate with noise of standard deviation 1/2."""
    return frx.LinearGaussian([[1.0, 0.0]], y=x[:1] + 0.5 * jax.random.normal(key, (1,)), noise_std=0.5)


@pytest.mark.accuracy
def test_posteriors_of_the_library_are_simulated():
    """PiGDM is exact for the standard normal prior: mean 0.8 y and variance 0.2 of the observed coordinate."""

    def posterior(observation, key, num_draws):
        return frx.posterior(MODEL, observation, key, num_draws, grid=16)

    found = dg.simulate_posteriors(MODEL, observe, posterior, jax.random.key(0), 30, 40, progress=False)
    assert found.draws.shape == (30, 40, 2) and found.num_failed == 0
    np.testing.assert_allclose(found.log_weights, -np.log(40), atol=1e-5)
    y = np.array([observation.y[0] for observation in found.observations])
    z = (found.draws - np.stack([0.8 * y, 0 * y], axis=1)[:, None]) / np.sqrt([0.2, 1.0])
    # 1,200 draws; the flow's own error at 16 steps is a few percent.
    np.testing.assert_allclose(z.mean(axis=(0, 1)), 0.0, atol=4 / np.sqrt(1200))
    np.testing.assert_allclose(np.mean(z**2, axis=(0, 1)), 1.0, atol=4 * np.sqrt(2 / 1200) + 0.03)
    likelihood = found.quantity(lambda observation, x: jax.vmap(observation.log_likelihood)(x))
    np.testing.assert_allclose(likelihood[0], stats.norm.logpdf(y, found.truths[:, 0], 0.5), rtol=1e-4)
    np.testing.assert_allclose(likelihood[1], stats.norm.logpdf(y[:, None], found.draws[..., 0], 0.5), rtol=1e-3)
    weights, quantities = found.log_weights, {"log-likelihood": likelihood}
    record = dg.diagnose(found.truths, found.draws, log_weights=weights, quantities=quantities)
    assert record.passed and record.calibration.names == ("x[0]", "x[1]", "log-likelihood")
    with pytest.raises(ValueError, match=r"^the values of function has shape \(41, 2\) but \(41,\) is expected"):
        found.quantity(lambda observation, x: x)


def test_posteriors_that_fail_are_counted_and_not_used():
    """The same draws as without failures, in the simulations that succeed."""
    failing = [False]

    def posterior(y, key, num_draws):
        if failing[0] and y > 1.5:
            raise frx.SolveError("the state became NaN")
        return np.asarray(y / 2 + STD * jax.random.normal(key, (num_draws,))), np.zeros(num_draws)

    def prior(key):
        return jax.random.normal(key)

    def noisy(key, x):
        return x + jax.random.normal(key)

    arguments = (prior, noisy, posterior, jax.random.key(1), 40, 25)
    whole = dg.simulate_posteriors(*arguments, progress=False)
    failing[0] = True
    num = int(np.sum(np.array(whole.observations) > 1.5))
    with pytest.warns(UserWarning, match=f"{num} of 40 posteriors failed.* The first error: the state became NaN"):
        rest = dg.simulate_posteriors(*arguments, progress=False)
    good = np.all(np.isfinite(rest.draws), axis=1)
    assert 0 < num == rest.num_failed == np.sum(~good) and f"{num} failed" in repr(rest)
    np.testing.assert_array_equal(rest.draws[good], whole.draws[good])
    with pytest.warns(UserWarning, match=f"{num} of 40 simulations have no usable draw"):
        record = dg.simulation_based_calibration(rest.truths, rest.draws, log_weights=rest.log_weights)
    assert record.num_failed == num and record.names == ("x",)


def test_a_model_of_several_parts_is_refused():
    parts = {name: frx.Model(frx.SharedNetwork(), frx.Linear(), shape=(1,)) for name in ("a", "b")}
    model = frx.JointModel(lambda t, x, condition: x, parts)
    with pytest.raises(ValueError, match="^prior has events of several parts; pass a function of a key"):
        dg.simulate_posteriors(model, observe, lambda y, key, n: None, jax.random.key(0), 10, 5)
