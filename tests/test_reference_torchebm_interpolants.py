"""Scales, conversions and diffusion coefficients against torchebm's; its time is ours."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowrax as frx
from flowrax.dynamics import diffusion as D

REFERENCE = np.load(pathlib.Path(__file__).parent / "reference" / "torchebm_interpolants.npz")
T, X = REFERENCE["t"], REFERENCE["x"]

SCHEDULES = {
    "linear": frx.Linear(),
    "cosine": frx.Cosine(),
    "vp": frx.VariancePreserving(),
    "vp_0.2_10": frx.VariancePreserving(0.2, 10.0),
}
# Theirs clamps alpha at 1e-8 where it is 0, and the variance of VP at 1e-12 where that is 0.
INSIDE = (T > 0) & (T < 1)
DIFFUSIONS = {
    "constant": D.Constant(),
    "sigma": D.Sigma(),
    "linear": D.LinearDecay(),
    "decreasing": D.QuadraticDecay(),
    "increasing-decreasing": D.Parabola(),
}


def agrees(got, want, tolerance=1e-10):
    got, want = np.asarray(got)[INSIDE], want[INSIDE]
    return np.max(np.abs(got - want) / np.maximum(1, np.abs(want))) <= tolerance


@pytest.mark.parametrize("name", SCHEDULES)
def test_scales_and_drift(name, x64):
    s, get = SCHEDULES[name], lambda key: REFERENCE[f"{name}/{key}"]
    pairs = {"alpha": "alpha", "dalpha": "alpha_rate", "sigma": "sigma", "dsigma": "sigma_rate"}
    for theirs, ours in pairs.items():
        assert agrees(getattr(s, ours)(T), get(theirs)), ours
    assert agrees(-s.drift(T), get("dalpha_over_alpha"))
    # velocity = -drift_mean + drift_var * score, in their words.
    assert agrees(s.drift(T)[:, None] * X, get("drift_mean"))
    assert agrees(s.diffusion_squared(T)[:, None] / 2, get("drift_var"))


@pytest.mark.parametrize("name", SCHEDULES)
def test_path(name, x64):
    path = frx.Affine(SCHEDULES[name])
    x0, x1 = jnp.asarray(REFERENCE["x0"]), jnp.asarray(REFERENCE["x1"])
    assert agrees(jax.vmap(path.interpolate)(T, x0, x1), REFERENCE[f"{name}/xt"])
    scales = jax.vmap(SCHEDULES[name].scales)(jnp.asarray(T))
    assert agrees(jax.vmap(lambda *a: frx.Velocity().from_pair(*a))(x1, x0, scales), REFERENCE[f"{name}/ut"])


@pytest.mark.parametrize("name", SCHEDULES)
def test_conversions(name, x64):
    scales = jax.vmap(SCHEDULES[name].scales)(jnp.asarray(T))
    velocity, score = jnp.asarray(REFERENCE["velocity"]), jnp.asarray(REFERENCE["score"])
    convert = lambda f, y: jax.vmap(f)(y, jnp.asarray(X), scales)  # noqa: E731
    assert agrees(convert(frx.Velocity().score, velocity), REFERENCE[f"{name}/v2s"])
    assert agrees(convert(frx.Velocity().noise, velocity), REFERENCE[f"{name}/v2n"])
    assert agrees(convert(frx.Score().velocity, score), REFERENCE[f"{name}/s2v"])


@pytest.mark.parametrize("name", SCHEDULES)
def test_diffusion_coefficients(name, x64):
    schedule = SCHEDULES[name]
    for form, coefficient in DIFFUSIONS.items():
        assert agrees(coefficient(schedule, jnp.asarray(T))[:, None], REFERENCE[f"{name}/diffusion/{form}"]), form


@pytest.mark.parametrize("name", SCHEDULES)
def test_sbdm_is_that_of_its_paper(name, x64):
    """Theirs is w / (sigma + 1e-8): it blows up at the data end, where the paper's w of VP is beta_min / 2."""
    schedule = SCHEDULES[name]
    for key, scale in (("SBDM", 1.0), ("SBDM_norm0.5", 0.5)):
        ours = D.SBDM(scale)(schedule, jnp.asarray(T))
        assert agrees((ours / (schedule.sigma(T) + 1e-8))[:, None], REFERENCE[f"{name}/diffusion/{key}"])


def test_finite_where_theirs_is_clamped(x64):
    """At the data end of VP and at both ends of the velocity's conversions to data and noise."""
    assert float(D.SBDM()(frx.VariancePreserving(), jnp.ones(()))) == pytest.approx(0.05)
    for end in (0.0, 1.0):
        s = frx.Linear().scales(jnp.asarray(end, jnp.float64))
        x, velocity = jnp.asarray([0.3]), jnp.asarray([2.0])
        data, noise = frx.Velocity().data(velocity, x, s), frx.Velocity().noise(velocity, x, s)
        # The straight line through x with this velocity, followed to both ends.
        assert np.allclose(data, x + (1 - end) * velocity) and np.allclose(noise, x - end * velocity)
