"""Weights and masked losses against values computed by bionemo-moco, whose time runs from data to noise."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowrax as frx

REFERENCE = np.load(pathlib.Path(__file__).parent / "reference" / "moco_vdm.npz")
DATA, NOISE, OUTPUT, T, MASK = (REFERENCE[name] for name in ("data", "noise", "model_out", "t", "mask"))
STEP = 1e-3
SCHEDULES = {
    "cosine": frx.schedule.CosineSNR(),
    "linear": frx.schedule.LinearSNR(),
    "loglinear": frx.schedule.LogLinearSNR(),
}
# Each of their weights on the error of the data, for which the reference was computed.
WEIGHTS = {
    "ones": frx.loss.UniformWeight(),
    "data_to_noise": frx.loss.SNR(),
    "variational_objective_continuous_data": frx.loss.Variational(),
}
pytestmark = pytest.mark.usefixtures("x64")


def losses(schedule, weight, masked, target=None):
    reduction = frx.loss.PerNode(mask=(lambda condition: condition["mask"]) if masked else None)
    loss = frx.Matching(weight=weight, reduction=reduction)
    model = frx.Model(lambda t, x, c: c["output"], schedule, target or frx.Data(), shape=(5, 3), dtype=jnp.float64)
    condition = {"output": jnp.asarray(OUTPUT), "mask": jnp.asarray(MASK)}
    rows = jnp.asarray(1 - T), jnp.asarray(NOISE), jnp.asarray(DATA), condition
    return jax.jit(jax.vmap(lambda *row: loss(model, *row)))(*rows)


def weights(schedule, weight, target):
    t = jnp.asarray(1 - T)
    return weight(target, schedule, t, schedule.scales(t))


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("weight", WEIGHTS)
def test_losses(name, weight):
    for masked, key in ((False, "loss"), (True, "loss_mask")):
        value = losses(SCHEDULES[name], WEIGHTS[weight], masked)
        np.testing.assert_allclose(value, REFERENCE[f"{name}/{key}/{weight}"], rtol=1e-10)


@pytest.mark.parametrize("name", SCHEDULES)
def test_continuous_variational_weight_of_the_noise(name):
    value = weights(SCHEDULES[name], frx.loss.Variational(), frx.Noise())
    theirs = REFERENCE[f"{name}/loss_weight/variational_objective_continuous_noise"].reshape(-1)
    np.testing.assert_allclose(value, theirs, rtol=1e-10)


@pytest.mark.parametrize("name", SCHEDULES)
def test_discrete_variational_weight(name):
    # Theirs is 1 - SNR(t) / SNR(s), which is w / (1 + w) of the weight w = SNR(s) / SNR(t) - 1 of the noise error.
    value = np.asarray(weights(SCHEDULES[name], frx.loss.Variational(step=STEP), frx.Noise()))
    theirs = REFERENCE[f"{name}/loss_weight/variational_objective_discrete"].reshape(-1)
    np.testing.assert_allclose(value / (1 + value), theirs, rtol=1e-9)
    assert np.all(value > theirs)
    # On the error of the data it is a difference of two SNRs.
    schedule, t = SCHEDULES[name], 1 - T
    snr = [np.exp(np.asarray(schedule.log_snr(jnp.asarray(time)))) for time in (t, t + STEP)]
    on_data = weights(schedule, frx.loss.Variational(step=STEP), frx.Data())
    np.testing.assert_allclose(on_data, snr[1] - snr[0], rtol=1e-8)
    # They put theirs on the error of the data as it is.
    factor = theirs / np.asarray(on_data)
    for masked, key in ((False, "loss"), (True, "loss_mask")):
        loss = losses(schedule, frx.loss.Variational(step=STEP), masked) * factor
        np.testing.assert_allclose(loss, REFERENCE[f"{name}/{key}/variational_objective_discrete"], rtol=1e-9)
