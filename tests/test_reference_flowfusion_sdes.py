"""VE, VP and sub-VP against flowfusion's, whose time runs from data at 0 to noise at T."""

import pathlib

import jax
import numpy as np
import pytest

import flowrax as frx
from flowrax.schedule import DiffusionClock

REFERENCE = np.load(pathlib.Path(__file__).parent / "reference" / "flowfusion_sdes.npz")
T, X = REFERENCE["t"], REFERENCE["x"]

# Their sigma_min and sigma_max are float32 numbers.
VE = {name: frx.VarianceExploding(*REFERENCE[f"{name}/actual_sigma_min_max"]) for name in ("ve", "ve_0.05_25")}
# With T = 2 their process runs twice as long at the same rates, and that of VE at half the logarithmic rate.
CASES = {
    **{name: (schedule, 1.0) for name, schedule in VE.items()},
    "ve_T2": (VE["ve"], 2.0),
    "vp": (frx.VariancePreserving(), 1.0),
    "vp_0.2_10": (frx.VariancePreserving(0.2, 10.0), 1.0),
    "vp_T2": (frx.VariancePreserving(2 * 0.1, 2 * 20.0), 2.0),
    "subvp": (frx.SubVariancePreserving(), 1.0),
    "subvp_0.2_10": (frx.SubVariancePreserving(0.2, 10.0), 1.0),
}


def agrees(got, want, tolerance=1e-10):
    return np.max(np.abs(np.asarray(got) - want) / np.maximum(1, np.abs(want))) <= tolerance


@pytest.mark.parametrize("name", CASES)
def test_scales_and_sde(name, x64):
    schedule, duration = CASES[name]
    t = DiffusionClock(duration).ours(T)
    want = {key: REFERENCE[f"{name}/{key}"] for key in ("sigma", "drift", "diffusion", "marg_mean_coef", "marg_std")}
    assert agrees(schedule.sigma(t), want["sigma"])
    assert agrees(schedule.sigma(t), want["marg_std"])
    assert agrees(schedule.sigma(t)[:, None], REFERENCE[f"{name}/marg_std_b"])
    assert agrees(schedule.alpha(t), want["marg_mean_coef"])
    assert agrees(schedule.alpha(t)[:, None] * X, REFERENCE[f"{name}/marg_mean"])
    assert agrees(schedule.drift(t)[:, None] / duration * X, want["drift"])
    assert agrees(schedule.diffusion(t)[:, None] / duration**0.5, want["diffusion"])
    if f"{name}/beta" in REFERENCE:
        assert agrees(-2 * schedule.drift(t) / duration, REFERENCE[f"{name}/beta"])


@pytest.mark.parametrize("name", CASES)
def test_prior(name, x64):
    """Theirs is what a model starts from: all that is left of the data is neglected."""
    schedule, _ = CASES[name]
    model = frx.Model(lambda t, x, c: x, schedule, frx.Score(), shape=(1,), dtype=np.float64, t_min=0.0)
    scale = REFERENCE[f"{name}/prior_scale"][0]
    # Theirs forgets that exp(-B) is not zero at the end, 4e-5 with the default rates.
    left = float(schedule.alpha(0.0)) ** 2 if "vp" in name else 0.0
    assert float(model.source.std) == pytest.approx(scale * (1 - left) ** (1.0 if "sub" in name else 0.5), rel=1e-7)
    prior = frx.prior.Gaussian((1,), std=scale)
    log_density = jax.vmap(prior.log_density)(X.reshape(-1, 1)).reshape(X.shape)
    want = REFERENCE[f"{name}/prior_logprob_x"]
    # Normal constants in single precision.
    assert agrees(log_density.sum(-1) if want.ndim == 1 else log_density, want, 1e-6)
    assert not REFERENCE[f"{name}/prior_loc"].any()


@pytest.mark.parametrize("name", [n for n in CASES if "subvp" in n])
def test_the_diffusion_of_sub_vp_is_real(name, x64):
    """An early version of theirs had the wrong sign in an exponent; d sigma^2/ds = 2 f sigma^2 + g^2 holds."""
    schedule, _ = CASES[name]
    t = np.linspace(0.05, 0.95, 7)
    growth = -jax.vmap(jax.grad(lambda u: schedule.sigma(u) ** 2))(t)
    assert agrees(growth, 2 * schedule.drift(t) * schedule.sigma(t) ** 2 + schedule.diffusion_squared(t))
