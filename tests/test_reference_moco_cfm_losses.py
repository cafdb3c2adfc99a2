"""Flow losses of both predictions in both targets against values computed by bionemo-moco, whose time runs as ours."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowrax as frx

REFERENCE = np.load(pathlib.Path(__file__).parent / "reference" / "moco_cfm.npz")
DATA, NOISE, OUTPUT, T, MASK = (REFERENCE[name] for name in ("data", "noise", "model_out", "t", "mask"))
EPSILON = 1e-5
TARGETS = {"data": frx.Data(), "velocity": frx.Velocity()}
pytestmark = pytest.mark.usefixtures("x64")


def per_node(masked):
    return frx.loss.PerNode(mask=(lambda condition: condition["mask"]) if masked else None)


def losses(prediction, loss, output=OUTPUT):
    """A network that returns what it is given as a condition."""
    model = frx.Model(lambda t, x, c: c["output"], frx.Linear(), TARGETS[prediction], shape=(5, 3), dtype=jnp.float64)
    condition = {"output": jnp.asarray(output), "mask": jnp.asarray(MASK)}
    return jax.jit(jax.vmap(lambda *row: loss(model, *row)))(
        jnp.asarray(T), jnp.asarray(NOISE), jnp.asarray(DATA), condition
    )


@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
@pytest.mark.parametrize("prediction", TARGETS)
@pytest.mark.parametrize("measured", TARGETS)
def test_losses(prediction, measured, masked):
    # The error in the data counts as one in the velocity; theirs has (1 - t)^2 + 1e-5 there for (1 - t)^2. The velocity
    # that they make of a data prediction has 1 - t + 1e-5 for 1 - t, so that it is not the one of that prediction.
    output = OUTPUT
    x = T[:, None, None] * DATA + (1 - T[:, None, None]) * NOISE
    if prediction == "data" and measured == "velocity":
        velocity = (OUTPUT - x) / (1 - T[:, None, None] + EPSILON)
        output = x + (1 - T[:, None, None]) * velocity
    loss = frx.Matching(weight=frx.loss.MeasuredIn(frx.Velocity()), reduction=per_node(masked))
    value = losses(prediction, loss, output)
    if measured == "data":
        value = value * (1 - T) ** 2 / ((1 - T) ** 2 + EPSILON)
    name = f"{prediction}/loss_{measured}" + ("_mask" if masked else "")
    np.testing.assert_allclose(value, REFERENCE[name], rtol=1e-10)


@pytest.mark.parametrize("prediction", TARGETS)
def test_targets_and_conversions(prediction):
    target, schedule = TARGETS[prediction], frx.Linear()
    t, x, output = (jnp.asarray(array) for array in (T, REFERENCE["xt"], OUTPUT))

    def convert(t, x, output, data, noise):
        s = schedule.scales(t)
        return target.from_pair(data, noise, s), target.data(output, x, s), target.velocity(output, x, s)

    wanted, data, velocity = jax.jit(jax.vmap(convert))(t, x, output, jnp.asarray(DATA), jnp.asarray(NOISE))
    np.testing.assert_allclose(wanted, REFERENCE[f"{prediction}/target"], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(data, REFERENCE[f"{prediction}/pdata"], rtol=1e-10, atol=1e-12)
    # Theirs adds 1e-5 to 1 - t for a data prediction.
    remaining = (1 - T)[:, None, None]
    factor = remaining / (remaining + EPSILON) if prediction == "data" else 1.0
    np.testing.assert_allclose(velocity * factor, REFERENCE[f"{prediction}/pvf"], rtol=1e-10, atol=1e-12)
