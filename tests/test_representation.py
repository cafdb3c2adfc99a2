"""Representation alignment: what it sees, that its parts move, and that mistakes are named."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flowrax as frx
from networks import numpy_draws

SHAPE = (1, 4, 4)


def model_of(key, **options):
    with numpy_draws():
        network = frx.nn.DiT(SHAPE, key=key, width=16, depth=1, num_heads=2, num_frequencies=2, num_classes=2)
        projected = frx.nn.Projected(network, frx.nn.Projector(16, 16, 3, key=key), block=0)
    return frx.Model(projected, frx.Linear(), shape=SHAPE, **options)


def test_it_is_the_matching_loss_plus_minus_the_cosine_of_every_token(key):
    model, x1 = model_of(key), jnp.ones(SHAPE)
    t, x0 = jnp.asarray(0.3), jax.random.normal(key, SHAPE)
    label, features = jnp.asarray(1), jax.random.normal(key, (4, 3))
    loss = frx.loss.RepresentationAlignment(weight=0.25)
    value_and_gradient = eqx.filter_jit(
        jax.value_and_grad(lambda f: loss(model, t, x0, x1, frx.loss.WithFeatures(label, f)))
    )
    value, _ = value_and_gradient(features)
    x = 0.3 * x1 + 0.7 * x0
    network: Any = model.network
    output, (hidden,) = eqx.filter_jit(network.hidden)(t, x, label)
    a, b = np.asarray(hidden), np.asarray(features)
    cosine = np.sum(a * b, axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    expected = np.mean((np.asarray(output) - np.asarray(x1 - x0)) ** 2) - 0.25 * cosine.mean()
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    # The scale of the features does not matter, and a token without features pulls nowhere.
    double, _ = value_and_gradient(2 * features)
    np.testing.assert_allclose(double, value, rtol=1e-5)
    alone, gradient = value_and_gradient(jnp.zeros((4, 3)))
    np.testing.assert_array_equal(gradient, 0)
    np.testing.assert_allclose(alone, np.mean((np.asarray(output) - np.asarray(x1 - x0)) ** 2), rtol=1e-5)


@pytest.mark.accuracy
def test_features_are_aligned_by_training(getkey):
    model = model_of(getkey())
    labels = jnp.arange(64, dtype=jnp.int32) % 2
    data = jax.random.normal(getkey(), (64, *SHAPE)) + 2.0 * labels.astype(jnp.float32).reshape(-1, 1, 1, 1)
    # An encoder that tells the two classes apart.
    features = jnp.where((labels == 0).reshape(-1, 1, 1), jnp.asarray([1.0, 0, 0]), jnp.asarray([0, 1.0, 0]))
    condition = frx.loss.WithFeatures(labels, jnp.broadcast_to(features, (64, 4, 3)))
    dropout = frx.loss.ConditionDropout(0.1, null=2)
    loss = frx.loss.RepresentationAlignment(frx.Matching(condition_dropout=dropout), weight=1.0)
    result = frx.fit(
        model,
        data,
        getkey(),
        loss=loss,
        condition=condition,
        optimizer=optax.adam(3e-3),
        num_steps=60,
        batch_size=32,
        ema_decay=0.5,
        progress=False,
    )

    def alignment(model):
        def one(x1, condition):
            return loss.parts(model, jnp.asarray(0.7), jnp.zeros(SHAPE), x1, condition)[1]

        return float(jnp.mean(jax.jit(jax.vmap(one))(data, condition)))

    assert alignment(result.model) < -0.9
    assert alignment(model) > -0.7
    # The features are for training only.
    samples = frx.sample(result.model, getkey(), 2, condition=jnp.asarray(1), grid=2)
    assert np.all(np.isfinite(samples.x))


@pytest.mark.accuracy
def test_mistakes_are_named(key):
    loss, x, t = frx.loss.RepresentationAlignment(), jnp.zeros(SHAPE), jnp.asarray(0.5)
    with pytest.raises(ValueError, match="pass condition=WithFeatures"):
        loss(model_of(key), t, x, x, jnp.asarray(1))
    with pytest.raises(ValueError, match=r"have shape \(4, 3\) but those of the data \(4, 5\); wrap the network"):
        loss(model_of(key), t, x, x, frx.loss.WithFeatures(jnp.asarray(1), jnp.ones((4, 5))))
    with numpy_draws():
        unet = frx.nn.UNet(SHAPE, key=key, width=8, num_blocks=1, num_heads=2)
    plain = frx.Model(unet, frx.Linear(), shape=SHAPE)
    with pytest.raises(ValueError, match="UNet returns no hidden features; use nn.DiT"):
        loss(plain, t, x, x, frx.loss.WithFeatures(None, jnp.ones((4, 3))))


def test_a_transformer_takes_the_way_that_is_left_as_a_condition(key):
    with numpy_draws():
        network = frx.nn.DiT(SHAPE, key=key, width=16, depth=1, num_heads=2, num_classes=2, vector_size=1)
    model = frx.Model(frx.nn.AverageVelocity(network), frx.Linear(), shape=SHAPE)
    dropout = frx.loss.ConditionDropout(0.5, null=2)
    loss = frx.loss.MeanFlowMatching(condition_dropout=dropout, guidance=frx.loss.MeanFlowGuidance(2.0, 0.5), power=0.0)
    pair, x0, x1 = jnp.asarray([0.2, 0.7]), jax.random.normal(key, SHAPE), jnp.ones(SHAPE)
    # A new network is zero, and so is its rate: the target is the guided velocity, twice the velocity.
    value = eqx.filter_jit(loss)(model, pair, x0, x1, jnp.asarray(1))
    np.testing.assert_allclose(value, 4 * jnp.sum((x1 - x0) ** 2), rtol=1e-5)
    dropped = frx.loss.MeanFlowMatching(
        condition_dropout=frx.loss.ConditionDropout(1.0, null=2), guidance=loss.guidance, power=0.0
    )
    value = eqx.filter_jit(dropped)(model, pair, x0, x1, jnp.asarray(1), key=key)
    np.testing.assert_allclose(value, jnp.sum((x1 - x0) ** 2), rtol=1e-5)


def test_what_leaves_the_range_of_the_prior_costs_nothing(key):
    """Its matching loss is that of `Matching`, also for a singular prior; and outputs of another shape are named."""
    shape = (4, 4)

    class Shown(frx.model.AbstractFeatureNetwork):
        rows: int = 4

        def hidden(self, t, x, condition=None, *, key=None):
            return jnp.full((self.rows, 4), 3.0), (jnp.ones((4, 3)),)

    x0, x1 = (z - z.mean(0, keepdims=True) for z in jax.random.normal(key, (2, *shape)))
    model = frx.Model(Shown(), frx.Linear(), shape=shape, prior=frx.prior.CentredGaussian(shape))
    given = frx.loss.WithFeatures(None, jnp.ones((4, 3)))
    parts = frx.loss.RepresentationAlignment().parts
    matching, _ = eqx.filter_jit(lambda t, x0, x1: parts(model, t, x0, x1, given))(jnp.asarray(0.3), x0, x1)
    # A constant is projected out, so that what is left is the target.
    np.testing.assert_allclose(matching, np.mean(np.asarray(x1 - x0) ** 2), rtol=1e-5)
    other = frx.Model(Shown(3), frx.Linear(), shape=shape)
    with pytest.raises(ValueError, match=r"The network's output has shape \(3, 4\) but \(4, 4\) is expected"):
        frx.loss.RepresentationAlignment()(other, jnp.asarray(0.3), x0, x1, given)


def test_it_does_not_depend_on_padding(key):
    """Neither the value nor the gradient of three tokens depends on a fourth at padding, whose features may be NaN."""

    class Rows(frx.model.AbstractFeatureNetwork):
        weight: jax.Array

        def hidden(self, t, x, condition=None, *, key=None):
            return self.weight * x, (x @ (self.weight * jnp.ones((2, 3))) + jnp.arange(3.0)[None],)

    reduction = frx.loss.Mean(mask=lambda condition: condition["mask"])
    loss = frx.loss.RepresentationAlignment(frx.Matching(reduction=reduction), weight=0.7)

    def run(tokens, mask):
        x0, x1, features = tokens
        given = frx.loss.WithFeatures({"mask": mask}, features)

        def value(network):
            model = frx.Model(network, frx.Linear(), shape=x0.shape)
            return loss(model, jnp.asarray(0.3), x0, x1, given)

        return eqx.filter_jit(eqx.filter_value_and_grad(value))(Rows(jnp.asarray(1.5)))

    draws = (jax.random.normal(key, (3, 2)), jax.random.normal(jax.random.fold_in(key, 1), (3, 2)), jnp.eye(3))
    alone = run(draws, jnp.ones(3))
    for fill in (7.0, jnp.nan):
        rows = [jnp.full((1, leaf.shape[1]), value) for leaf, value in zip(draws, (7.0, -3.0, fill), strict=True)]
        padded = [jnp.concatenate(pair) for pair in zip(draws, rows, strict=True)]
        got = run(padded, jnp.asarray([1, 1, 1, 0]))
        np.testing.assert_allclose(got[0], alone[0], rtol=1e-6)
        np.testing.assert_allclose(got[1].weight, alone[1].weight, rtol=1e-5)
    with pytest.raises(ValueError, match=r"The mask has shape \(2,\) but the features have tokens of shape \(3,\)"):
        frx.loss.RepresentationAlignment(mask=lambda c: c)(
            frx.Model(Rows(jnp.asarray(1.5)), frx.Linear(), shape=(3, 2)), 0.3, *draws[:2],
            frx.loss.WithFeatures(jnp.ones(2), draws[2])
        )  # fmt: skip
