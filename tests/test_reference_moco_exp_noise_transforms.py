"""Masking schedules against bionemo-moco's, and against the death process that they describe."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate

from flowrax.discrete import CosineMasking, LogLinearMasking
from flowrax.schedule import DiffusionClock

REFERENCE = np.load(pathlib.Path(__file__).parent / "reference" / "moco_exp_noise_transforms.npz")
T = REFERENCE["t"]

SCHEDULES = {
    "cosine": CosineMasking(),
    "loglinear": LogLinearMasking(),
    "cosine_eps1em2": CosineMasking(1e-2),
    "loglinear_eps1em2": LogLinearMasking(1e-2),
}
QUANTITIES = {"sigma": "total_noise", "alpha": "alpha", "dsigma_dt": "noise_rate"}


@pytest.mark.parametrize("name", SCHEDULES)
def test_agrees(name, x64):
    schedule, t = SCHEDULES[name], DiffusionClock().ours(T)
    for theirs, ours in QUANTITIES.items():
        want = REFERENCE[f"{name}/{theirs}"]
        got = getattr(schedule, ours)(t)
        assert np.max(np.abs(got - want) / np.maximum(1, np.abs(want))) <= 1e-10, ours
    assert np.max(np.abs(schedule.total_noise(T) - REFERENCE[f"{name}/sigma_unified"])) <= 1e-10


@pytest.mark.parametrize("name", SCHEDULES)
def test_rates_are_derivatives_and_explain_the_masks(name, x64):
    """Masked at `noise_rate` from no masks at t = 1; unmasked at `unmask_rate` from t = 0."""
    schedule, t = SCHEDULES[name], jnp.linspace(0.01, 0.99, 7)
    assert np.allclose(schedule.alpha_rate(t), jax.vmap(jax.grad(schedule.alpha))(t), rtol=1e-12)
    assert np.allclose(schedule.noise_rate(t), -jax.vmap(jax.grad(schedule.total_noise))(t), rtol=1e-10)
    forward = scipy.integrate.solve_ivp(
        lambda s, p: [-float(schedule.noise_rate(1 - s)) * p[0]], (0, 0.7), [1.0], rtol=1e-10, atol=1e-12
    )
    assert forward.y[0, -1] == pytest.approx(float(schedule.alpha(0.3)), rel=1e-7)
    backward = scipy.integrate.solve_ivp(
        lambda u, p: [-float(schedule.unmask_rate(u)) * p[0]], (0, 0.7), [1.0], rtol=1e-10, atol=1e-12
    )
    kept = float(schedule.mask_probability(0.7) / schedule.mask_probability(0.0))
    assert backward.y[0, -1] == pytest.approx(kept, rel=1e-7)


@pytest.mark.parametrize("schedule", [CosineMasking(), LogLinearMasking(), CosineMasking(0.0)])
def test_time_at_and_ends(schedule):
    t = jnp.asarray([0.0, 1e-3, 0.3, 0.8, 1 - 1e-3, 1.0])
    assert np.allclose(schedule.time_at(schedule.alpha(t)), t, atol=1e-4)
    assert float(schedule.alpha(0.0)) == pytest.approx(schedule.eps)
    assert (schedule.mask_probability(1.0), schedule.total_noise(1.0)) == (0, 0)
    near = jnp.asarray(1 - 2**-20)
    exact = {CosineMasking: np.pi**2 / 8 * 2.0**-40, LogLinearMasking: 2.0**-20}[type(schedule)] * (1 - schedule.eps)
    assert float(schedule.mask_probability(near)) == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("make", [CosineMasking, LogLinearMasking])
def test_impossible_numbers_are_refused(make):
    with pytest.raises(ValueError, match=r"^eps must lie in \[0, 1\); got 1.0\.$"):
        make(1.0)
