"""Networks against hand-written NumPy, and what training may and may not change in them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flowrax as frx


def numpy_features(features, t):
    angle = 2 * np.pi * np.asarray(features.frequencies) * t
    return np.concatenate([np.sin(angle), np.cos(angle)])


def silu(x):
    return x / (1 + np.exp(-x))


def test_mlp_is_the_composition_it_claims(x64, key):
    network = frx.nn.MLP((2, 2), key=key, condition_size=3, width=5, depth=2, num_frequencies=3, frequency_scale=2.0)
    x, condition = np.arange(4.0).reshape(2, 2), {"a": np.array([1.0, -1.0]), "b": np.array(0.5)}
    h = np.concatenate([numpy_features(network.features, 0.3), condition["a"], [condition["b"]], x.reshape(-1)])
    for layer in network.layers[:-1]:
        h = silu(np.asarray(layer.weight) @ h + np.asarray(layer.bias))
    expected = (np.asarray(network.layers[-1].weight) @ h + np.asarray(network.layers[-1].bias)).reshape(2, 2)
    actual = network(jnp.asarray(0.3), jnp.asarray(x), jax.tree.map(jnp.asarray, condition))
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_frequencies_have_the_scale_that_was_asked_for(key):
    frequencies = np.asarray(frx.nn.FourierFeatures(4000, 3.0, key=key).frequencies)
    # The standard deviation of n normal draws is known to 1 / sqrt(2 n).
    assert abs(frequencies.std() / 3.0 - 1) < 4 / np.sqrt(8000)


def test_a_new_residual_network_is_linear_in_its_normalised_input(x64, key):
    # Every block starts as the identity, so time cannot matter yet.
    network = frx.nn.ResidualMLP((3,), key=key, width=8, depth=3, num_frequencies=2)
    x = jnp.asarray([0.3, -1.0, 2.0])
    h = np.asarray(network.read_in.weight) @ np.asarray(x) + np.asarray(network.read_in.bias)
    h = (h - h.mean()) / np.sqrt(h.var() + 1e-5)
    expected = np.asarray(network.read_out.weight) @ h + np.asarray(network.read_out.bias)
    for t in (0.1, 0.9):
        np.testing.assert_allclose(network(jnp.asarray(t), x), expected, rtol=1e-6)


@pytest.mark.accuracy
def test_time_condition_and_dropout_matter_after_training(getkey):
    network = frx.nn.ResidualMLP((2,), key=getkey(), width=16, depth=2, condition_size=1, dropout=0.5)
    model = frx.Model(network, frx.Linear(), shape=(2,))
    data, condition = jax.random.normal(getkey(), (64, 2)), jax.random.normal(getkey(), (64, 1))
    optimizer = optax.adamw(1e-2, weight_decay=0.5)
    trained = frx.fit(
        model, data + condition, getkey(), condition=condition, num_steps=30, optimizer=optimizer, progress=False
    ).last_model.network
    assert isinstance(trained, frx.nn.ResidualMLP)
    np.testing.assert_array_equal(trained.features.frequencies, network.features.frequencies)
    x, c = jnp.ones(2), jnp.ones(1)
    base = trained(jnp.asarray(0.5), x, c)
    np.testing.assert_array_equal(base, trained(jnp.asarray(0.5), x, c))
    changed = [
        trained(jnp.asarray(0.9), x, c),
        trained(jnp.asarray(0.5), x, -c),
        trained(jnp.asarray(0.5), x, c, key=getkey()),
    ]
    assert all(float(jnp.max(jnp.abs(other - base))) > 1e-3 for other in changed)


def test_a_condition_of_another_size_is_named(key):
    network = frx.nn.MLP((2,), key=key, condition_size=3)
    with pytest.raises(ValueError, match="The condition has 0 elements but the network takes 3"):
        network(jnp.asarray(0.5), jnp.ones(2))
    with pytest.raises(ValueError, match=r"The network's event has shape \(3,\) but \(2,\) is expected"):
        network(jnp.asarray(0.5), jnp.ones(3), jnp.ones(3))
