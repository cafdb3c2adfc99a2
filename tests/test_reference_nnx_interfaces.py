"""Flow matching, EDM and mean flow against values computed by DiffuseNNX, whose time runs from data to noise."""

import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowrax as frx
from flowrax.model import AbstractAverageVelocity

REFERENCE = np.load(pathlib.Path(__file__).parent / "reference" / "nnx_interfaces.npz")
A, B, DATA, NOISE, T, R, Y = (REFERENCE[name] for name in ("A", "b", "x", "n", "t", "r", "y"))
SIGMA = REFERENCE["sigma"]
NULL = 1000
UNLABELLED = np.zeros_like(Y)
pytestmark = pytest.mark.usefixtures("x64")


def formula(x, time, span, label):
    """Their network, in their time."""
    bump = jnp.sin(jnp.asarray(label, x.dtype)) * jnp.asarray([1.0, -1.0, 0.5])
    return A @ x + B * time + 0.3 * jnp.tanh(x) * (1 + 0.5 * span) + 0.1 * bump


class Network(AbstractAverageVelocity):
    """Their average velocity in our time, which runs the other way: minus theirs, from 1 - t to 1 - r."""

    scale: jax.Array

    def average(self, t, r, x, condition=None, *, key=None):
        return -self.scale * formula(x, 1 - t, r - t, condition)


def plain(t, x, condition):
    """Their velocity at the span zero, in our time."""
    return -formula(x, 1 - t, 0.0, condition)


def rows(function, *arrays):
    return jax.jit(jax.vmap(function))(*(jnp.asarray(array) for array in arrays))


def assert_exact(value, reference):
    np.testing.assert_allclose(value, reference, rtol=1e-10, atol=1e-10)


def test_sit():
    model = frx.Model(plain, frx.Linear(), shape=(3,), dtype=jnp.float64)
    x = rows(model.interpolant.interpolate, 1 - T, NOISE, DATA)
    assert_exact(x, REFERENCE["sit/x_t"])
    assert_exact(-rows(model.interpolant.velocity, 1 - T, NOISE, DATA), REFERENCE["sit/target"])
    prediction = rows(model.predict, 1 - T, x, UNLABELLED)
    assert_exact(-prediction.velocity, REFERENCE["sit/pred"])
    assert_exact(rows(lambda t, x, y: model.predict(t, x, y).score, 1 - T, x, UNLABELLED), REFERENCE["sit/score"])


@pytest.mark.parametrize(("ratio", "key"), [(1.0, "loss_shift1"), (None, "loss_default_shift")])
def test_sit_loss_with_their_shift_of_time(ratio, key):
    ratio = float(REFERENCE["sit/default_shift_ratio"]) if ratio is None else ratio
    assert ratio in (1.0, np.sqrt(3 / 4096))
    shifted = ratio * T / (1 + (ratio - 1) * T)
    model = frx.Model(plain, frx.Linear(), shape=(3,), dtype=jnp.float64)
    value = rows(lambda t, x0, x1, y: frx.Matching()(model, t, x0, x1, y), 1 - shifted, NOISE, DATA, UNLABELLED)
    assert_exact(value, REFERENCE[f"sit/{key}"])


def edm_model():
    # Their network is called with log(sigma) / 4, which is what the preconditioner passes.
    def network(c_noise, x, condition):
        return formula(x, c_noise, 0.0, condition)

    schedule = frx.EDM(sigma_min=1e-4, sigma_max=100.0)
    return frx.Model(
        network, schedule, frx.Data(), preconditioner=frx.EDMPreconditioner(), shape=(3,), dtype=jnp.float64
    )


def test_edm_preconditioner():
    sigmas = REFERENCE["sg"]
    seen = []

    def network(c_noise, x, condition):
        seen.append((c_noise, x))
        return condition * jnp.ones_like(x)

    schedule, scale = frx.EDM(sigma_min=1e-4, sigma_max=100.0), frx.EDMPreconditioner()
    for i, sigma in enumerate(sigmas):
        t = schedule.time_at(-2 * np.log(sigma))
        skip = scale(network, schedule, t, jnp.ones(1), 0.0)
        out = scale(network, schedule, t, jnp.ones(1), 1.0) - skip
        c_noise, x = seen[-1]
        expected = [REFERENCE[f"edm/{name}"][i] for name in ("c_skip", "c_out", "c_in", "c_noise")]
        np.testing.assert_allclose([skip[0], out[0], x[0], c_noise], expected, rtol=1e-8)


def test_edm():
    model = edm_model()
    t = model.schedule.time_at(jnp.asarray(-2 * np.log(SIGMA)))
    x = rows(model.interpolant.interpolate, t, NOISE, DATA)
    np.testing.assert_allclose(x, REFERENCE["edm/x_t"], rtol=1e-8)
    np.testing.assert_allclose(
        rows(lambda *a: model.predict(*a).data, t, x, UNLABELLED), REFERENCE["edm/D_x"], rtol=1e-8
    )
    # Their prediction is the noise, the velocity per unit of sigma.
    noise = rows(lambda *a: model.predict(*a).noise, t, x, UNLABELLED)
    np.testing.assert_allclose(noise, REFERENCE["edm/pred"], rtol=1e-6)
    score = rows(lambda *a: model.predict(*a).score, t, x, UNLABELLED)
    np.testing.assert_allclose(score, REFERENCE["edm/score_correct=-pred/sigma"], rtol=1e-6)
    loss = frx.Matching(weight=frx.loss.EDMWeight())
    value = rows(lambda t, x0, x1, y: loss(model, t, x0, x1, y), t, NOISE, DATA, UNLABELLED)
    np.testing.assert_allclose(value, REFERENCE["edm/loss"], rtol=1e-8)


def test_edm_weight():
    schedule = frx.EDM(sigma_min=1e-4, sigma_max=100.0)
    t = schedule.time_at(jnp.asarray(-2 * np.log(REFERENCE["sg"])))
    value = frx.loss.EDMWeight()(frx.Data(), schedule, t, schedule.scales(t))
    np.testing.assert_allclose(value, REFERENCE["edm/weight"], rtol=1e-8)


GUIDANCES = {
    "noguid": None,
    "cfg2": frx.loss.MeanFlowGuidance(2.0),
    "default": frx.loss.MeanFlowGuidance(1.0, 0.5),
    # Their interval is a time that runs from data to noise.
    "mix_paper": frx.loss.MeanFlowGuidance(0.2, 0.92, t_min=0.2),
}


@pytest.mark.parametrize("name", GUIDANCES)
def test_mean_flow(name):
    model = frx.Model(Network(jnp.ones(())), frx.Linear(), shape=(3,))

    def loss_of(**options):
        dropout = frx.loss.ConditionDropout(0.5, null=NULL)
        return frx.loss.MeanFlowMatching(guidance=GUIDANCES[name], condition_dropout=dropout, **options)

    pairs = np.stack([1 - T, 1 - R], axis=1)
    both = rows(lambda p, x0, x1, y: loss_of().output_and_target(model, p[0], p[1], x0, x1, y), pairs, NOISE, DATA, Y)
    assert_exact(-both[0], REFERENCE[f"mf/{name}/u"])
    assert_exact(-both[1], REFERENCE[f"mf/{name}/target"])
    # Where the pair coincides the target is the velocity itself.
    same = rows(lambda t, x0, x1, y: loss_of().output_and_target(model, t, t, x0, x1, y)[1], 1 - T, NOISE, DATA, Y)
    assert_exact(-same, REFERENCE[f"mf/{name}/insta_v"])
    for options, key in (({}, "loss"), ({"power": 0.5, "epsilon": 1e-2}, "loss_p0.5_eps1e-2")):
        loss = loss_of(**options)
        value = rows(functools.partial(loss, model), pairs, NOISE, DATA, Y)
        assert_exact(value, REFERENCE[f"mf/{name}/{key}"])


def test_mean_flow_has_the_score_of_its_velocity():
    model = frx.Model(Network(jnp.ones(())), frx.Linear(), shape=(3,))
    x = rows(model.interpolant.interpolate, 1 - T, NOISE, DATA)
    assert_exact(x, REFERENCE["sit/x_t"])
    score = rows(lambda *a: model.predict(*a).score, 1 - T, x, Y)
    assert_exact(score, REFERENCE["mf/score_correct(r=t)"])
    assert np.abs(score - REFERENCE["mf/score_as_coded"]).max() > 0.1
    network: Any = model.network
    average = rows(lambda t, r, x, y: network.average(t, r, x, y), 1 - T, 1 - R, x, Y)
    assert_exact(-average, REFERENCE["mf/pred_r"])
    assert_exact(-rows(model.output, 1 - T, x, Y), REFERENCE["mf/pred_rt"])


def test_a_dropped_condition_has_the_plain_velocity_for_its_target(key):
    model = frx.Model(Network(jnp.ones(())), frx.Linear(), shape=(3,))
    loss = frx.loss.MeanFlowMatching(
        guidance=GUIDANCES["cfg2"], condition_dropout=frx.loss.ConditionDropout(1.0, null=NULL)
    )
    output, target = rows(
        lambda t, x0, x1, y: loss.output_and_target(model, t, t, x0, x1, y, key=key), 1 - T, NOISE, DATA, Y
    )
    assert_exact(-target, REFERENCE["mf/conddrop1/v"])
    labels = REFERENCE["mf/conddrop1/y"]
    x = rows(model.interpolant.interpolate, 1 - T, NOISE, DATA)
    assert_exact(output, rows(model.output, 1 - T, x, labels))


def test_edm_score_of_a_gaussian_is_the_truth_where_theirs_is_not():
    model = frx.oracle.Gaussian(jnp.zeros(3), 0.25 * jnp.eye(3)).model(frx.EDM(sigma_min=1e-4, sigma_max=100.0))
    t = model.schedule.time_at(jnp.asarray(-2 * np.log(SIGMA)))
    score = rows(lambda t, x: model.predict(t, x).score, t, REFERENCE["edm/x_t"])
    truth, coded = REFERENCE["edm/gauss_score_truth"], REFERENCE["edm/gauss_score_as_coded"]
    np.testing.assert_allclose(score, truth, rtol=1e-8)
    assert np.abs(coded - truth).max() > 100


def test_edm_is_finite_at_both_ends_of_time_and_has_its_law_of_noise(key):
    # Their uniform times reach sigma = 0, whose logarithm the network is given; here sigma ends at sigma_min.
    model = edm_model()
    loss = frx.Matching(weight=frx.loss.EDMWeight())
    for t in (0.0, 1.0):
        value = loss(model, jnp.asarray(t), jnp.asarray(NOISE[0]), jnp.asarray(DATA[0]), jnp.asarray(0))
        assert np.isfinite(value)
    from scipy import stats

    times = frx.times.LogNormal(model.schedule, -1.2, 1.2)(key, 4096, model.t_min, model.t_max, jnp.float64)
    log_sigma = -np.asarray(model.schedule.log_snr(times)) / 2
    assert stats.kstest((log_sigma + 1.2) / 1.2, "norm").pvalue > 1e-4
