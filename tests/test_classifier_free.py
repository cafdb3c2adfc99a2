"""Guidance by the difference of two predictions, against Gaussians whose conditional and marginal laws are known."""

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowrax as frx

KEY = jax.random.key(0)
MEANS = np.asarray([[1.0, -2.0], [3.0, 0.5], [2.0, -0.75]])
STDS = np.asarray([0.5, 0.4, 1.5])


def denoise(t, x, label):
    """The denoiser of the class with that label; the last one stands for no class."""
    mean, variance = jnp.asarray(MEANS, x.dtype)[label], jnp.asarray(STDS, x.dtype)[label] ** 2
    alpha, sigma = t.astype(x.dtype), (1 - t).astype(x.dtype)
    return mean + alpha * variance / (alpha**2 * variance + sigma**2) * (x - alpha * mean)


@pytest.fixture(params=[frx.Data(), frx.Velocity()], ids=["data", "velocity"])
def model(request):
    def network(t, x, label):
        data = denoise(t, x, label)
        return data if isinstance(request.param, frx.Data) else (data - x) / (1 - t)

    return frx.Model(network, frx.Linear(), request.param, shape=(2,), dtype=np.float64, t_max=0.99)


def score(t, x, label):
    variance = t**2 * STDS[label] ** 2 + (1 - t) ** 2
    return -(x - t * MEANS[label]) / variance


def test_every_form_follows_the_mixed_score(x64, model):
    """The score in closed form; the other forms by the conversions of that score, which the mixture satisfies."""
    t, x = jnp.asarray(0.6), jnp.asarray([0.3, -0.2])
    mixed = frx.ClassifierFree(model, 2.5, null=2).predict(t, x, jnp.asarray(1))
    want = score(t, x, 2) + 2.5 * (score(t, x, 1) - score(t, x, 2))
    np.testing.assert_allclose(mixed.score, want, rtol=1e-10)
    np.testing.assert_allclose(mixed.noise, -0.4 * want, rtol=1e-10)
    np.testing.assert_allclose(0.6 * mixed.data + 0.4 * mixed.noise, x, rtol=1e-10)
    np.testing.assert_allclose(mixed.velocity, mixed.data - mixed.noise, rtol=1e-10)


@pytest.mark.accuracy
def test_weights_of_one_and_zero_are_the_laws_themselves(x64, model):
    options = {"grid": 20, "solver": dfx.Heun()}
    for weight, label in ((1.0, 1), (0.0, 2)):
        guided = frx.sample(frx.ClassifierFree(model, weight, null=2), KEY, 5, condition=1, **options)
        plain = frx.sample(model, KEY, 5, condition=label, **options)
        np.testing.assert_allclose(guided.x, plain.x, rtol=1e-10)


@pytest.mark.accuracy
def test_guided_draws_have_the_density_of_their_own_flow(x64, model):
    """The flow of an affine velocity takes a Gaussian to a Gaussian: moments of the draws against its log-density."""
    guided = frx.ClassifierFree(model, 2.0, null=2)
    draws = frx.sample(guided, KEY, 4000, condition=frx.Batched(jnp.ones(4000, int)), grid=40, solver=dfx.Heun())
    mean, std = draws.x.mean(0), draws.x.std(0)
    # Away from the class that is not meant: beyond the mean of the one that is.
    assert np.all((mean - MEANS[1]) * (MEANS[1] - MEANS[2]) > 0)
    got = frx.log_prob(guided, mean[None], condition=1, grid=40, solver=dfx.Heun()).value[0]
    want = -jnp.sum(jnp.log(std)) - jnp.log(2 * jnp.pi)
    # The log of two standard deviations of 4,000 draws, and what the mean is off by: four standard errors.
    assert abs(got - want) <= 4 * (2 / (2 * 4000)) ** 0.5 + 1e-3


def test_interval_channels_and_another_model(x64, model):
    t, x, label = jnp.asarray(0.3), jnp.asarray([0.3, -0.2]), jnp.asarray(1)
    own = model.predict(t, x, label).velocity
    outside = frx.ClassifierFree(model, 3.0, null=2, interval=(0.4, 0.9)).predict(t, x, label)
    np.testing.assert_allclose(outside.velocity, own, rtol=1e-12)
    whole = frx.ClassifierFree(model, 3.0, null=2).predict(t, x, label).velocity
    first = frx.ClassifierFree(model, jnp.asarray([3.0, 1.0]), null=2).predict(t, x, label).velocity
    np.testing.assert_allclose(first, [whole[0], own[1]], rtol=1e-12)
    worse = frx.oracle.Gaussian(MEANS[2], STDS[2] ** 2 * jnp.eye(2)).model(frx.Linear())
    auto = frx.ClassifierFree(model, 3.0, other=worse).predict(t, x, label).velocity
    np.testing.assert_allclose(auto, whole, rtol=1e-10)


@pytest.mark.accuracy
def test_stochastic_samplers_and_gradients(x64, model):
    guided = frx.ClassifierFree(model, 1.5, null=2)
    draws = frx.sample(guided, KEY, 3, condition=1, dynamics=frx.ReverseSDE(), solver=frx.DDIM(), grid=10)
    assert np.all(np.isfinite(draws.x))

    def total(weight):
        at = frx.ClassifierFree(model, weight, null=2)
        return jnp.sum(frx.sample(at, KEY, 3, condition=1, grid=5, solver=dfx.Heun()).x)

    slope = jax.grad(total)(jnp.asarray(1.5))
    difference = (total(jnp.asarray(1.5 + 1e-5)) - total(jnp.asarray(1.5 - 1e-5))) / 2e-5
    assert float(slope) == pytest.approx(float(difference), rel=1e-6)


def test_errors(x64, model):
    with pytest.raises(ValueError, match="needs null="):
        frx.ClassifierFree(model, 2.0)
    with pytest.raises(ValueError, match="another schedule"):
        frx.ClassifierFree(model, 2.0, other=frx.Model(lambda t, x, c: x, frx.Cosine(), shape=(2,), dtype=np.float64))
    with pytest.raises(ValueError, match="does not broadcast"):
        frx.ClassifierFree(model, jnp.ones(3), null=2)
