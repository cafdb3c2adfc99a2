"""Flow and equilibrium matching against values computed by torchebm, whose time runs as ours."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowrax as frx

REFERENCE = np.load(pathlib.Path(__file__).parent / "reference" / "torchebm_losses.npz")
A, B, X0, X1, T = (REFERENCE[name] for name in ("A", "b", "x0", "x1", "t"))
SCHEDULES = {"linear": frx.Linear(), "cosine": frx.Cosine(), "vp": frx.VariancePreserving()}
pytestmark = pytest.mark.usefixtures("x64")


def network(t, x, condition):
    return A @ x + B * t + 0.3 * jnp.tanh(x)


def negated(t, x, condition):
    return -network(t, x, condition)


def losses(loss, network, schedule, target=None):
    model = frx.Model(network, schedule, target, shape=(3,), dtype=jnp.float64)
    return jax.vmap(lambda t, x0, x1: loss(model, t, x0, x1))(jnp.asarray(T), jnp.asarray(X0), jnp.asarray(X1))


def assert_exact(value, reference):
    np.testing.assert_allclose(value, reference, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", SCHEDULES)
def test_flow_matching(name):
    schedule = SCHEDULES[name]
    assert_exact(losses(frx.Matching(), network, schedule), REFERENCE[f"fm/{name}/loss"])
    # Their negated velocity is minus the network; their weight is 1 / (1 - t).
    weighted = frx.Matching(weight=frx.loss.TimeWeight(lambda t: 1 / (1 - t)))
    assert_exact(losses(weighted, negated, schedule), REFERENCE[f"fm/{name}/loss_neg_w"])
    model = frx.Model(network, schedule, shape=(3,), dtype=jnp.float64)
    x = jax.vmap(model.interpolant.interpolate)(jnp.asarray(T), jnp.asarray(X0), jnp.asarray(X1))
    assert_exact(jax.vmap(model.output)(jnp.asarray(T), x), REFERENCE[f"fm/{name}/pred"])


FIELDS = {
    # Their field is the gradient of the energy and ours its negative: without an energy the sign is a choice.
    "none": frx.nn.Timeless(negated),
    "dot": frx.nn.Timeless(frx.nn.EnergyGradient(network)),
    "mean": frx.nn.Timeless(frx.nn.EnergyGradient(network)),
    "l2": frx.nn.Timeless(frx.nn.EnergyGradient(network, frx.nn.norm_energy)),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_equilibrium_matching(name):
    for energy, field in FIELDS.items():
        value = losses(frx.loss.EquilibriumMatching(), field, SCHEDULES[name])
        assert_exact(value, REFERENCE[f"eqm/{name}/{energy}"])
    # These two were computed with a network that sees the time.
    for decay, key in ((frx.loss.Decay(cutoff=0.0), "ct_linear"), (lambda t: 4.0, "ct_constant")):
        value = losses(frx.loss.EquilibriumMatching(decay), negated, SCHEDULES[name])
        assert_exact(value, REFERENCE[f"eqm/{name}/{key}"])


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("prediction", ["noise", "score"])
def test_weights_of_noise_and_score(name, prediction):
    target = {"noise": frx.Noise(), "score": frx.Score()}[prediction]
    field, weights = (
        frx.nn.Timeless(network),
        {
            # Theirs are weights of the noise error, and their drift term is half of g^2.
            "None": frx.loss.MeasuredIn(frx.Noise()),
            "velocity": frx.loss.MeasuredIn(frx.Velocity()),
            "likelihood": frx.loss.Likelihood() * frx.loss.TimeWeight(lambda t: 0.5),
        },
    )
    for key, weight in weights.items():
        value = losses(frx.Matching(weight=weight), field, SCHEDULES[name], target)
        assert_exact(value, REFERENCE[f"eqm/{name}/{prediction}/{key}"])


def test_decay_flow_weight_and_dispersion():
    t = jnp.asarray(REFERENCE["ct/t"])
    assert_exact(frx.loss.Decay()(t), REFERENCE["ct/truncated"])
    assert_exact(frx.loss.Decay(0.5, 2.0)(t), REFERENCE["ct/truncated_0.5_2"])
    for weight, key in ((frx.loss.Truncated(), "flow_weight"), (frx.loss.Truncated(0.5), "flow_weight_0.5")):
        scales = frx.Linear().scales(t)
        assert_exact(weight(frx.Velocity(), frx.Linear(), t, scales), REFERENCE[key])
    assert_exact(frx.loss.dispersion(jnp.asarray(X1)), REFERENCE["dispersive"])
