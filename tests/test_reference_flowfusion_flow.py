"""flowfusion's ODE flows: their weights in our model give their fields, losses, samples and log-densities.

Their time runs from data at 0 to noise at 1, so `t` here is 1 - theirs and the velocity changes its sign.
"""

import pathlib

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowrax as frx

REFERENCE = np.load(pathlib.Path(__file__).parent / "reference" / "flowfusion_flow.npz")
KINDS = ("uncond", "cond")
TIGHT = {"rtol": 1e-12, "atol": 1e-12}


class Theirs(eqx.Module):
    """The perceptron of [x, their time, condition]."""

    weights: tuple[jax.Array, ...]
    biases: tuple[jax.Array, ...]

    def __call__(self, t, x, condition):
        condition = jnp.zeros(0) if condition is None else condition
        h = jnp.concatenate([x, jnp.reshape(1 - t, 1), condition])
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            h = jax.nn.silu(weight @ h + bias)
        return -(self.weights[-1] @ h + self.biases[-1])


def estimator(kind):
    def stored(name):
        return jnp.asarray(REFERENCE[f"w/{kind}/{name}"])

    network = Theirs(*(tuple(stored(f"velocity.{i}.{part}") for i in (0, 2, 4)) for part in ("weight", "bias")))
    model = frx.Model(network, frx.Linear(), shape=(2,), dtype=jnp.float64)
    options = {"shift": stored("target_shift"), "scale": stored("target_scale")}
    if kind == "cond":
        options["condition"] = jnp.zeros(1)
        options["condition_shift"], options["condition_scale"] = (
            stored("conditional_shift"),
            stored("conditional_scale"),
        )
    return frx.DensityEstimator(model, **options)


def conditions(kind):
    return frx.Batched(jnp.asarray(REFERENCE["c"])) if kind == "cond" else None


def rows_of(kind, density):
    """Their conditions in standardised units, one a row, and the axis to map over."""
    if kind == "uncond":
        return None
    return jax.vmap(density.condition_standard.forward)(jnp.asarray(REFERENCE["c"]))


def test_every_key_is_used_or_out_of_scope():
    used = {"x", "c", "z", "xt", "v_target", "t", "xT_uncond", "logjac_uncond"}
    used |= {f"{name}_{kind}" for name in ("loss", "sample", "log_prob") for kind in KINDS}
    used |= {f"dyn_{kind}_t0.3" for kind in KINDS}
    left = {name for name in REFERENCE if name not in used and not name.startswith("w/")}
    assert left == {"sympl/out_t", "sympl/sample4", "sympl/log_prob"}


@pytest.mark.parametrize("kind", KINDS)
def test_field(kind, x64):
    density = estimator(kind)
    velocity = jax.vmap(lambda x, c: density.model.predict(0.7, x, c).velocity)
    got = velocity(jnp.asarray(REFERENCE["x"]), rows_of(kind, density))
    np.testing.assert_allclose(-got, REFERENCE[f"dyn_{kind}_t0.3"], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_loss_of_stored_draws(kind, x64):
    """Their noise is `z`; the loss of one row is its mean over elements, and theirs the mean of these."""
    density, loss = estimator(kind), frx.Matching()
    x1 = jax.vmap(density.standard.forward)(jnp.asarray(REFERENCE["x"]))
    x0, t = jnp.asarray(REFERENCE["z"]), jnp.asarray(1 - REFERENCE["t"])
    path = frx.Affine(frx.Linear())
    np.testing.assert_allclose(jax.vmap(path.interpolate)(t, x0, x1), REFERENCE["xt"], atol=1e-14)
    np.testing.assert_allclose(-jax.vmap(path.velocity)(t, x0, x1), REFERENCE["v_target"], atol=1e-14)
    rows = jax.vmap(lambda t, x0, x1, c: loss(density.model, t, x0, x1, c))(t, x0, x1, rows_of(kind, density))
    np.testing.assert_allclose(np.mean(rows), REFERENCE[f"loss_{kind}"], rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_of_stored_noise(kind, x64):
    """Theirs differ by 2e-6; scipy with tight tolerances gives our answer of the unconditional one."""
    got = estimator(kind).sample(jax.random.key(0), 6, x0=REFERENCE["z"], condition=conditions(kind), **TIGHT)
    np.testing.assert_allclose(got.x, REFERENCE[f"sample_{kind}"], rtol=0, atol=3e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_log_prob(kind, x64):
    """Their log-density of a flow has the Jacobian of the scale, as ours."""
    density = estimator(kind)
    got = density.log_prob(REFERENCE["x"], condition=conditions(kind), **TIGHT)
    np.testing.assert_allclose(got.value, REFERENCE[f"log_prob_{kind}"], rtol=0, atol=3e-9)
    if kind == "uncond":
        np.testing.assert_allclose(got.x0, REFERENCE["xT_uncond"], rtol=0, atol=3e-9)
        source = jax.vmap(density.model.source.log_density)(got.x0)
        change = got.value - source + density.standard.log_scale(density.model.prior)
        np.testing.assert_allclose(change, REFERENCE["logjac_uncond"][:, 0], rtol=0, atol=3e-9)
