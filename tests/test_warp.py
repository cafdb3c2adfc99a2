"""A model under another schedule against the exact model of that schedule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowrax as frx
from laws import assert_moments, mixture, moments

PATHS = {
    "vp to linear": (frx.VariancePreserving(), frx.Linear()),
    "linear to cosine": (frx.Linear(), frx.Cosine()),
    "linear to ve": (frx.Linear(), frx.VarianceExploding(0.05, 20.0)),
    "edm to vp": (frx.EDM(), frx.VariancePreserving()),
    "cosine to learned": (frx.Cosine(), frx.schedule.LearnedSNR(jax.random.key(0))),
}


@pytest.mark.parametrize("name", PATHS)
def test_prediction_is_that_of_the_exact_model(name, key, x64):
    """All four forms inside the interval, and the law at its start."""
    old, new = PATHS[name]
    oracle = mixture(3, 2, jnp.float64)
    warped, exact = frx.warp(oracle.model(old), new), oracle.model(new)
    span = warped.t_max - warped.t_min
    t = warped.t_min + span * jnp.asarray([1e-6, 0.1, 0.5, 0.9, 0.999])
    x = jax.random.normal(key, (5, 2), jnp.float64)

    @jax.jit
    def forms(t, x):
        return [(p.data, p.noise, p.velocity, p.score) for p in (warped.predict(t, x), exact.predict(t, x))]

    got, want = jax.vmap(forms)(t, x * jax.vmap(lambda t: jnp.hypot(new.alpha(t), new.sigma(t)))(t)[:, None])
    for a, b in zip(got, want, strict=True):
        assert np.allclose(a, b, rtol=1e-7, atol=1e-7)
    x = warped.source.draw(key)
    assert float(warped.source.log_density(x)) == pytest.approx(
        float(exact.source_at(warped.t_min).log_density(x)), rel=1e-6
    )


def test_interval_is_where_the_log_snrs_overlap(x64):
    model = mixture(3, 2, jnp.float64).model(frx.VariancePreserving())
    warped = frx.warp(model, frx.Linear())
    assert float(frx.Linear().log_snr(warped.t_min)) == pytest.approx(float(model.schedule.log_snr(0.0)), rel=1e-9)
    assert warped.t_max == 1.0
    back = frx.warp(warped, frx.VariancePreserving())
    assert back.t_min == pytest.approx(0.0, abs=1e-9)
    # The rate of the standard deviation is infinite at its end.
    assert back.t_max == 0.999


@pytest.mark.accuracy
def test_flows_end_where_the_model_does(key, x64):
    """From the same point at the noise end, scaled: the same data, and the same log-density."""
    model = mixture(3, 2, jnp.float64).model(frx.Linear())
    warped = frx.warp(model, frx.Cosine())
    start = model.source.sample(key, (8,))
    ends = [frx.sample(m, key, 8, x0=start, rtol=1e-8, atol=1e-8).x for m in (model, warped)]
    assert np.max(np.abs(ends[0] - ends[1])) <= 1e-5
    densities = [frx.log_prob(m, ends[0], rtol=1e-8, atol=1e-8).value for m in (model, warped)]
    assert np.max(np.abs(densities[0] - densities[1])) <= 1e-5


def test_a_trained_network_is_warped(key):
    """Of a linear network the velocity at each time is known: data and noise solve a linear system."""
    matrix = jnp.asarray([[0.3, -0.2], [0.1, 0.5]])
    model = frx.Model(lambda t, x, c: matrix @ x + t, frx.Linear(), shape=(2,), dtype=np.float32)
    warped = frx.warp(model, frx.Cosine())
    assert (warped.t_min, warped.t_max) == (0.0, 1.0)
    x, t = jnp.asarray([0.4, -1.0]), jnp.asarray(0.3)
    alpha, sigma = np.sin(np.pi * 0.15), np.cos(np.pi * 0.15)
    u = alpha / (alpha + sigma)
    y = np.asarray(x) * (1 - u) / sigma
    output = np.asarray(matrix) @ y + u
    data, noise = y + (1 - u) * output, y - u * output
    got = warped.predict(t, x)
    assert np.allclose(got.data, data, atol=1e-5) and np.allclose(got.noise, noise, atol=1e-5)
    assert np.allclose(got.velocity, np.pi / 2 * (sigma * data - alpha * noise), atol=1e-5)
    assert float(warped.source.std) == 1.0


def test_dependent_noise_and_data_have_no_score_here_either():
    model = frx.Model(lambda t, x, c: x, frx.Linear(), shape=(2,), dtype=np.float32, coupling=frx.ExactOT())
    warped = frx.warp(model, frx.Cosine())
    with pytest.raises(ValueError, match="has no score"):
        _ = warped.predict(jnp.asarray(0.5), jnp.ones(2)).score
    with pytest.raises(ValueError, match="has no score"):
        _ = warped.score_interval


def test_schedules_without_common_noise_are_refused():
    model = mixture(3, 2).model(frx.VarianceExploding(10.0, 50.0))
    with pytest.raises(ValueError, match=r"^The model covers log-SNRs from -7.82 to -4.61, but the new schedule"):
        frx.warp(model, frx.VarianceExploding(0.01, 1.0))


@pytest.mark.accuracy
def test_reverse_sde_of_a_warped_model(key):
    """Moments of draws on a learned path, and the same draws where all happens inside a jit."""
    schedule = frx.schedule.LearnedSNR(jax.random.key(0))
    model = mixture(3, 2).model(frx.Linear())
    grid = frx.times.log_snr_grid(schedule, 60)

    def draw(key):
        return frx.sample(frx.warp(model, schedule), key, 400, dynamics=frx.ReverseSDE(), grid=grid).x

    x = draw(key)
    assert_moments(x, *moments(model.oracle.scaled(jnp.ones(()), schedule.sigma(1.0))))
    assert np.allclose(jax.jit(draw)(key), x, atol=1e-3)


def test_start_of_a_singular_prior_has_the_density_of_its_range(key, x64):
    """At the start of a warped model what is left of the data is nothing beside the noise."""
    prior = frx.prior.CentredGaussian((3, 1))
    centring = np.eye(3) - 1 / 3
    model = frx.oracle.Gaussian(np.zeros(3), centring).model(frx.VariancePreserving(), prior=prior)
    warped = frx.warp(model, frx.VarianceExploding(0.01, 50.0))
    x = 50 * prior.draw(key)
    # Data of covariance 1 on the range, under noise of standard deviation sigma.
    total = float(jnp.hypot(1.0, warped.schedule.sigma(warped.t_min)))
    want = frx.prior.CentredGaussian((3, 1), std=total).log_density(x)
    assert float(warped.source.log_density(x)) == pytest.approx(float(want), rel=1e-6)
