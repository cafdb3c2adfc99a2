"""Schedules by log-SNR against bionemo-moco's, whose time runs from data at 0 to noise at 1."""

import pathlib

import jax
import numpy as np
import pytest

from flowrax import schedule as S

REFERENCE = np.load(pathlib.Path(__file__).parent / "reference" / "moco_snr_transforms.npz")
CLOCK = S.DiffusionClock()
T = REFERENCE["t"]

SCHEDULES = {
    "cosine": S.CosineSNR(),
    "cosine_nu1p5_s0p02": S.CosineSNR(nu=1.5, s=0.02),
    "linear": S.LinearSNR(),
    "linear_min1em3": S.LinearSNR(1e-3),
    "loglinear": S.LogLinearSNR(),
    "loglinear_m10_p10": S.LogLinearSNR(-10.0, 10.0),
}
# At the noise end of the cosine nothing is left of the data; theirs has the rounding error of a cosine there.
KNOWN = {name: T < 1 if "cosine" in name else T <= 1 for name in SCHEDULES}
# Ours, in diffusion time: scales as they are, rates with another sign. Their beta has the sign of d log(alpha)/dt.
QUANTITIES = {
    "log_snr": lambda s, t: s.log_snr(t),
    "alpha": lambda s, t: s.alpha(t),
    "sigma": lambda s, t: s.sigma(t),
    "sde_f": lambda s, t: s.drift(t),
    "sde_g2": lambda s, t: s.diffusion_squared(t),
    "beta": lambda s, t: -s.diffusion_squared(t),
    "dalpha_dt": lambda s, t: -s.alpha_rate(t),
    "dlogsnr_dt": lambda s, t: -jax.vmap(jax.grad(s.log_snr))(t),
}


@pytest.mark.parametrize("quantity", QUANTITIES)
@pytest.mark.parametrize("name", SCHEDULES)
def test_agrees(name, quantity, x64):
    known = KNOWN[name]
    got = QUANTITIES[quantity](SCHEDULES[name], CLOCK.ours(T[known]))
    want = REFERENCE[f"{name}/{quantity}"][known]
    assert np.max(np.abs(got - want) / np.maximum(1, np.abs(want))) <= 1e-10


@pytest.mark.parametrize("name", SCHEDULES)
def test_unified_time_is_ours(name, x64):
    # Their flipped times differ from ours by rounding, which the steepest log-SNR amplifies.
    known = KNOWN[name][::-1]
    got = SCHEDULES[name].log_snr(T[known])
    want = REFERENCE[f"{name}/log_snr_unified"][known]
    assert np.max(np.abs(got - want) / np.maximum(1, np.abs(want))) <= 1e-10


@pytest.mark.parametrize("name", [n for n in SCHEDULES if "cosine" in n])
def test_no_data_is_left_at_the_noise_end_of_the_cosine(name, x64):
    """Theirs says -74.7, twice the logarithm of a rounding error."""
    assert SCHEDULES[name].log_snr(0.0) == -np.inf
    assert SCHEDULES[name].alpha(0.0) == 0
    assert REFERENCE[f"{name}/log_snr"][-1] == pytest.approx(2 * np.log(np.cos(np.pi / 2)), rel=1e-10)
