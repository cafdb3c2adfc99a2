"""Discrete tables against bionemo-moco's, and against products and conditioning done by hand."""

import pathlib

import numpy as np
import pytest

from flowrax.schedule import DiscreteSchedule, ddpm_cosine, ddpm_linear

REFERENCE = np.load(pathlib.Path(__file__).parent / "reference" / "moco_discrete_noise_schedules.npz")

# Theirs clips the rates of the cosine from below as well; that of the linear one is a float32 table.
MAKE = {
    "cosine": lambda n: ddpm_cosine(n, beta_min=1e-3),
    "cosine_nu1p5_s0p02": lambda n: ddpm_cosine(n, nu=1.5, s=0.02, beta_min=1e-3),
    "linear": ddpm_linear,
    "linear_b1em3_0p05": lambda n: ddpm_linear(n, 1e-3, 0.05),
}


@pytest.mark.parametrize("n", [10, 100, 1000])
@pytest.mark.parametrize("name", MAKE)
def test_rates(name, n, x64):
    want = REFERENCE[f"{name}/n{n}/alphas"]
    tolerance = 1e-10 if want.dtype == np.float64 else 1.2e-7
    schedule = MAKE[name](n)
    assert np.max(np.abs(np.asarray(schedule.alpha) - want)) <= tolerance
    if n == 10:
        unified = REFERENCE[f"{name}/n10/alphas_unified"]
        assert np.max(np.abs(np.asarray(schedule.alpha)[::-1] - unified)) <= tolerance


def test_clipping_of_a_given_table(x64):
    """Theirs starts at clean data, which has no index here."""
    table, want = REFERENCE["clip_helper_in"][1:], REFERENCE["clip_helper_out"][1:]
    clipped = DiscreteSchedule.from_alpha_bar(table, beta_max=0.999)
    assert np.max(np.abs(np.asarray(clipped.alpha_bar) - want)) <= 1e-10


def test_a_chain_of_steps_is_the_closed_form(x64):
    """Composing the steps one by one gives the scales, and conditioning a joint Gaussian gives the posterior."""
    schedule = ddpm_cosine(12)
    beta = np.asarray(schedule.rates)
    mean, variance = 1.0, 0.0
    for i, b in enumerate(beta):
        # The joint law of (x_{i-1}, x_i) given data x_1 = 1.
        before, spread = mean, variance
        mean, variance = np.sqrt(1 - b) * before, (1 - b) * spread + b
        gain = np.sqrt(1 - b) * spread / variance
        assert np.allclose(schedule.data_scale[i], mean, rtol=1e-12)
        assert np.allclose(schedule.noise_scale[i] ** 2, variance, rtol=1e-12)
        assert np.allclose(schedule.log_snr[i], np.log(mean**2 / variance), rtol=1e-12)
        assert np.allclose(schedule.alpha_bar_before[i], before**2, rtol=1e-12)
        assert np.allclose(schedule.posterior_state[i], gain, rtol=1e-10)
        assert np.allclose(schedule.posterior_data[i], before - gain * mean, rtol=1e-10)
        assert np.allclose(schedule.posterior_variance[i], spread - gain**2 * variance, rtol=1e-10, atol=1e-16)
    assert schedule.posterior_variance[0] == 0 < schedule.posterior_variance[1]


def test_every_second_index_is_a_chain_of_its_own(x64):
    full = ddpm_linear(1000)
    half = DiscreteSchedule.from_alpha_bar(full.alpha_bar[1::2])
    assert np.allclose(1 - half.beta, full.alpha[0::2] * full.alpha[1::2], rtol=1e-12)


def test_time_and_index(x64):
    schedule = ddpm_linear(1000)
    index = np.arange(-1, 1000)
    times = schedule.time(index)
    assert (times[0], times[-1]) == (1.0, 0.0)
    assert (np.asarray(schedule.index(times)) == index).all()


@pytest.mark.parametrize("rates", [[0.1, 1.0], [0.0, 0.1], [], [[0.1]]])
def test_impossible_rates_are_refused(rates):
    with pytest.raises(ValueError, match="^rates must be a list of numbers between 0 and 1; got shape "):
        DiscreteSchedule(rates)
