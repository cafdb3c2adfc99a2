"""Draws depend on the key alone, whatever its implementation, and what is no key is refused in words."""

import math
import os
import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowrax as frx
from flowrax._base.random import as_threefry, normal
from flowrax.stepper import BrownianTree

IMPLEMENTATIONS = ["threefry2x32", "rbg", "unsafe_rbg"]
MODEL = frx.oracle.Gaussian(jnp.zeros(2), jnp.eye(2)).model(frx.Linear())
SDE = frx.ReverseSDE(frx.dynamics.Constant(1.0))


TRAINABLE = frx.Model(frx.nn.MLP((2,), key=jax.random.key(0), width=4, depth=1), frx.Linear(), shape=(2,))
TOKENS = frx.discrete.CategoricalModel(
    lambda t, x, c: jnp.zeros((3, 4)), frx.discrete.CosineMasking(), prior=frx.discrete.UniformCategorical((3,), 4)
)

DOORS = {
    "sample": lambda key: frx.sample(MODEL, key, 3, dynamics=SDE, grid=4).x,
    "sample of tokens": lambda key: frx.sample(TOKENS, key, 3, grid=4).x,
    "log_prob": lambda key: frx.log_prob(MODEL, np.ones((3, 2)), key=key, divergence=frx.Hutchinson(2), grid=4).value,
    "bound of tokens": lambda key: frx.log_prob(TOKENS, np.zeros((2, 3), int), key=key, grid=4).value,
    "posterior": lambda key: (
        frx.posterior(MODEL, frx.LinearGaussian(jnp.eye(2), jnp.ones(2), 0.5), key, 3, dynamics=SDE, grid=4).x
    ),
    "parallel_sample": lambda key: frx.verb.parallel_sample(MODEL, key, 3, dynamics=SDE, grid=4).x,
    "variational_bound": lambda key: (
        frx.verb.variational_bound(MODEL, np.ones((2, 2)), key, t_min=0.1, t_max=0.9).value
    ),
    "fit": lambda key: frx.fit(TRAINABLE, np.ones((4, 2)), key, num_steps=2, progress=False).history["train_loss"],
    "DensityEstimator": lambda key: jax.tree.leaves(eqx.filter(frx.DensityEstimator((2,), key=key), eqx.is_array))[0],
    "oracle": lambda key: frx.oracle.Gaussian(jnp.zeros(2), jnp.eye(2)).sample(key, (3,)),
    "prior": lambda key: frx.prior.Gaussian((2,)).draw(key),
    "times": lambda key: frx.times.Uniform()(key, 3, 0.0, 1.0, jnp.float32),
}


def test_threefry_keys_pass_unchanged(key):
    assert as_threefry(key) is key


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_raw_words_equal_the_typed_key(impl):
    typed = jax.random.key(5, impl=impl)
    raw = jax.random.key_data(typed)
    for words in (raw, np.asarray(raw)):
        assert jnp.array_equal(jax.random.key_data(as_threefry(words)), jax.random.key_data(as_threefry(typed)))
    assert jnp.array_equal(
        jax.random.key_data(jax.jit(as_threefry)(raw)), jax.random.key_data(jax.jit(as_threefry)(typed))
    )


def test_keys_that_differ_in_one_word_give_other_keys():
    words = np.zeros((5, 4), np.uint32)
    words[np.arange(1, 5), np.arange(4)] = 1
    derived = {jax.random.key_data(as_threefry(row)).tobytes() for row in words}
    assert len(derived) == 5


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_a_draw_does_not_depend_on_the_batch(impl):
    keys = jax.random.split(jax.random.key(0, impl=impl), 4)
    together = jax.vmap(lambda key: normal(key, (3,), jnp.float32))(keys)
    alone = jnp.stack([normal(key, (3,), jnp.float32) for key in keys])
    assert jnp.array_equal(together, alone)
    few = frx.sample(MODEL, keys[0], 2, dynamics=SDE, grid=4).x
    many = frx.sample(MODEL, keys[0], 7, dynamics=SDE, grid=4).x
    assert jnp.allclose(few, many[:2], atol=1e-6)


@pytest.mark.parametrize("impl", ["rbg", "unsafe_rbg"])
def test_increments_have_the_right_variance(impl):
    """Over two neighbouring intervals of a path whose nodes are drawn one by one, as adaptive steps do."""

    def increments(key):
        path = BrownianTree(0.0, 1.0, (), key, dtype=jnp.float32)
        return jnp.stack([path.evaluate(0.125, 0.5), path.evaluate(0.5, 0.9)])

    w = jax.vmap(increments)(jax.random.split(jax.random.key(0, impl=impl), 5000))
    expected = jnp.asarray([[0.375, 0.0], [0.0, 0.4]])
    scale = jnp.sqrt(jnp.asarray([[2 * 0.375**2, 0.375 * 0.4], [0.375 * 0.4, 2 * 0.4**2]]) / len(w))
    assert jnp.all(jnp.abs(jnp.cov(w.T) - expected) < 5 * scale)


@pytest.mark.parametrize("impl", ["rbg", "unsafe_rbg"])
def test_samples_have_the_right_variance(impl):
    x = frx.sample(MODEL, jax.random.key(0, impl=impl), 4000, dynamics=SDE, grid=64).x
    assert abs(float(x.var()) - 1) < 5 * math.sqrt(2 / x.size)
    assert abs(float(x.mean())) < 5 / math.sqrt(x.size)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_draws_of_rbg_keys_are_those_of_the_derived_key(impl):
    key = jax.random.key(3, impl=impl)
    assert jnp.array_equal(DOORS["sample"](key), DOORS["sample"](as_threefry(key)))
    assert jnp.array_equal(DOORS["sample"](jax.random.key_data(key)), DOORS["sample"](key))


class Scaled(eqx.Module):
    factor: jax.Array

    def __call__(self, t, x, condition):
        return self.factor * x


@pytest.mark.accuracy
def test_gradient_replays_the_draws_of_an_rbg_key():
    def total(scale, key):
        model = frx.Model(Scaled(scale), frx.Linear(), shape=(2,))
        return frx.sample(model, key, 3).x.sum()

    key, scale = jax.random.key(1, impl="unsafe_rbg"), jnp.asarray(0.3)
    total_of_x0 = jnp.sum(jax.vmap(lambda i: _start(key, i))(jnp.arange(3)))
    # dx/dt = a x for t in [0, 1] multiplies the start by exp(a).
    assert jnp.allclose(total(scale, key), total_of_x0 * jnp.exp(scale), rtol=1e-4)
    assert jnp.allclose(jax.grad(total)(scale, key), total_of_x0 * jnp.exp(scale), rtol=1e-3)


def _start(key, index):
    source_key = jax.random.split(jax.random.fold_in(as_threefry(key), index), 4)[0]
    return jax.random.normal(source_key, (2,))


ON_TWO_DEVICES = """
import jax, numpy as np, flowrax as frx
model = frx.oracle.Gaussian(np.zeros(2), np.eye(2)).model(frx.Linear())
key, x0 = jax.random.key(0, impl="unsafe_rbg"), np.ones((4, 2), np.float32)
rows = jax.NamedSharding(jax.make_mesh((2,), ("n",)), jax.P("n"))
sde = frx.ReverseSDE(frx.dynamics.Constant(1.0))
a, b = (frx.sample(model, key, 4, x0=x, dynamics=sde, grid=2).x for x in (x0, jax.device_put(x0, rows)))
assert len(b.devices()) == 2
np.testing.assert_allclose(a, b, atol=1e-6)
"""


@pytest.mark.accuracy
def test_sharding_does_not_change_the_draws():
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
    subprocess.run([sys.executable, "-c", ON_TWO_DEVICES], check=True, env={**os.environ, "XLA_FLAGS": flags})


# The annotations of priors and times refuse these in tests already.
@pytest.mark.parametrize("door", [door for door in DOORS if door not in ("prior", "times")])
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (0, r"key must be a random key, not int; pass key=jax.random.key\(seed\)"),
        (jax.random.split(jax.random.key(0), 3), r"key is an array of keys of shape \(3,\), but one key is expected"),
    ],
)
def test_what_is_no_key_is_refused(door, wrong, message):
    with pytest.raises(ValueError, match=message):
        DOORS[door](wrong)


@pytest.mark.parametrize(
    "wrong", [None, 1.5, "0", np.int64(3), np.zeros(2), np.zeros(3, np.uint32), jnp.zeros((2, 2), jnp.uint32)]
)
def test_other_wrong_keys(wrong):
    with pytest.raises(ValueError, match=r"pass key=jax.random.key\(seed\)"):
        frx.sample(MODEL, wrong, 3)


@pytest.mark.parametrize("door", DOORS)
def test_every_door_takes_rbg_keys(door):
    key = jax.random.key(2, impl="rbg")
    assert jnp.array_equal(DOORS[door](key), DOORS[door](as_threefry(key)))
