"""The transformer for tokens: how it starts, what it sees of padding, order and time, and that it learns."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flowrax as frx
from networks import numpy_draws, stirred

LENGTH, TOKENS = 6, 5


def transformer(key, shape=(LENGTH,), **options):
    options = {"width": 16, "depth": 2, "num_heads": 2, "num_frequencies": 3} | options
    with numpy_draws():
        return frx.nn.Transformer(shape, TOKENS, key=key, **options)


def tokens(*values):
    return jnp.asarray(values, jnp.int32)


X, T = tokens(0, 4, 2, 1, 1, 3), 0.3


def call(network, *args, **options):
    """On rows of its arguments, compiled once."""
    return eqx.filter_jit(jax.vmap(lambda *rows: network(*rows, **options)))(*args)


@pytest.mark.parametrize(
    "options",
    [{}, {"time": False}, {"time": False, "rotary": False, "num_classes": 2}],
    ids=["time", "bare", "class"],
)
def test_a_new_network_gives_zeros_and_every_weight_learns(options, getkey):
    network = transformer(getkey(), **options)
    condition = jnp.asarray(1) if "num_classes" in options else None
    x, t = tokens(0, 1, 2, 3, 4, 0), jnp.asarray(T)
    parameters, static = eqx.partition(network, eqx.is_inexact_array)
    wanted = jax.random.normal(getkey(), (LENGTH, TOKENS))

    @jax.jit
    def value_and_gradient(p):
        def loss(p):
            out = eqx.combine(p, static)(t, x, condition)
            return jnp.sum((out - wanted) ** 2), out

        return jax.grad(loss, has_aux=True)(p)

    gradient, out = value_and_gradient(parameters)
    np.testing.assert_array_equal(out, jnp.zeros((LENGTH, TOKENS)))
    # What is zero at first lets the gradient through one layer a step.
    for _ in range(4):
        parameters = jax.tree.map(lambda p, g: np.asarray(p) - np.float32(1e-2) * np.asarray(g), parameters, gradient)
        gradient, _ = value_and_gradient(parameters)
    flat, _ = jax.tree_util.tree_flatten_with_path(gradient)
    silent = [jax.tree_util.keystr(path) for path, leaf in flat if leaf.size and not np.any(np.asarray(leaf))]
    # The softmax of attention does not see what is common to all keys.
    assert [name for name in silent if "key_proj.bias" not in name] == []


@pytest.mark.parametrize("rotary", [True, False])
def test_padding_is_not_seen_and_leaves_what_the_short_event_has(rotary, x64, getkey):
    # Times have the same frequencies under the same key.
    made = getkey()
    padded = transformer(made, rotary=rotary, mask=lambda condition: condition["real"], num_classes=3)
    padded = stirred(padded, getkey())
    condition = {"real": jnp.arange(LENGTH) < 4, "class": jnp.asarray(1)}
    other = X.at[4:].set(tokens(0, 2))
    both = jax.jit(jax.vmap(lambda x: padded(jnp.asarray(T), x, condition)))(jnp.stack([X, other]))
    np.testing.assert_allclose(both[0, :4], both[1, :4], atol=1e-12)
    assert np.all(np.isfinite(both))
    assert np.abs(both[0, 4:] - both[1, 4:]).max() > 1e-3

    # The same weights for four sites.
    short = transformer(made, (4,), rotary=rotary, num_classes=3)
    weights = padded if rotary else eqx.tree_at(lambda n: n.positions.weight, padded, replace_fn=lambda w: w[:4])
    arrays, static = eqx.filter(weights, eqx.is_inexact_array), eqx.filter(short, eqx.is_inexact_array, inverse=True)
    leaves = jax.tree.leaves(arrays)
    short = eqx.combine(jax.tree.unflatten(jax.tree.structure(eqx.filter(short, eqx.is_inexact_array)), leaves), static)
    np.testing.assert_allclose(both[0, :4], eqx.filter_jit(short)(jnp.asarray(T), X[:4], jnp.asarray(1)), atol=1e-12)

    nobody = condition | {"real": jnp.zeros(LENGTH, bool)}
    assert np.all(np.isfinite(eqx.filter_jit(padded)(jnp.asarray(T), X, nobody)))


class Unturned(eqx.Module):
    """A block that does not learn where its tokens stand."""

    block: eqx.Module

    @property
    def attention(self):
        return self.block.attention

    def __call__(self, h, context, key, *, mask, heads):
        return self.block(h, context, key, mask=mask)


def test_order_matters_by_positions_alone(x64, key):
    """Sites that change places change the answer; without positions the answer changes places with them."""
    order = np.array([3, 1, 5, 0, 2, 4])
    rows = jnp.stack([X, X[order]])

    def difference(network):
        ahead, behind = jax.jit(jax.vmap(lambda x: network(jnp.asarray(T), x)))(rows)
        return np.abs(behind - ahead[order]).max()

    rotary, learned = (stirred(transformer(key, rotary=rotary), key) for rotary in (True, False))
    assert difference(rotary) > 1e-3
    assert difference(learned) > 1e-3
    assert difference(eqx.tree_at(lambda n: n.positions.weight, learned, replace_fn=jnp.zeros_like)) < 1e-12
    unturned = eqx.tree_at(lambda n: n.blocks, rotary, tuple(Unturned(block) for block in rotary.blocks))
    assert difference(unturned) < 1e-12


def test_rotation_shows_differences_of_places_alone(x64, key):
    """In a longer event, padded before instead of behind, attention sees the same."""
    network = stirred(transformer(key, time=False, mask=lambda condition: condition), key)
    front = jnp.arange(LENGTH) < 4
    moved, at = jnp.roll(X, 2), eqx.filter_jit(network)
    here = at(jnp.asarray(T), X, front)[:4]
    np.testing.assert_allclose(at(jnp.asarray(T), moved, jnp.roll(front, 2))[2:], here, atol=1e-12)


def test_time_class_vector_and_dropout_change_the_output(getkey):
    network = stirred(transformer(getkey(), num_classes=3, vector_size=2, dropout=0.5), getkey())
    labels, vectors = jnp.asarray([1, 1, 3, 1]), jnp.asarray([[1.0, 1], [1, 1], [1, 1], [0, 0]])
    base, *others = call(network, jnp.asarray([0.3, 0.6, 0.3, 0.3]), jnp.stack([X] * 4), (labels, vectors))
    assert base.shape == (LENGTH, TOKENS)
    dropped = call(lambda *a: network(*a, key=getkey()), jnp.asarray([0.3]), X[None], (labels[:1], vectors[:1]))
    assert all(float(jnp.max(jnp.abs(other - base))) > 1e-3 for other in [*others, dropped[0]])
    bare = stirred(transformer(getkey(), time=False), getkey())
    np.testing.assert_array_equal(*call(bare, jnp.asarray([0.3, 0.6]), jnp.stack([X] * 2)))


def test_precisions_agree_and_the_shape_is_that_of_the_event(key):
    single = stirred(transformer(key, (2, 3)), key)
    x = X.reshape(2, 3)
    out = eqx.filter_jit(single)(jnp.asarray(T), x)
    assert out.shape == (2, 3, TOKENS)
    with jax.enable_x64(True):
        double = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64) if eqx.is_inexact_array(a) else a, single)
        exact = eqx.filter_jit(double)(jnp.asarray(T, jnp.float64), x)
        assert exact.dtype == jnp.float64
    np.testing.assert_allclose(out, exact, rtol=1e-3, atol=1e-4)


@pytest.mark.accuracy
def test_fit_finds_the_law_of_each_class(x64, key):
    """The bound of a trained network comes down to the entropy; samples of a class follow its law; padding is noise."""
    # Two tokens that are alike in class 0 and unlike in class 1: log 2 nats for each event.
    first, padding = jax.random.randint(key, (2, 512), 0, 2, jnp.int32)
    label = jnp.arange(512, dtype=jnp.int32) % 2
    data = jnp.stack([first, first ^ label, padding], axis=1)
    condition = {"real": jnp.broadcast_to(jnp.array([[True, True, False]]), data.shape), "label": label}

    def real(condition):
        return condition["real"]

    options = {"width": 16, "depth": 1, "num_heads": 2, "time": False, "num_classes": 2, "mask": real}
    with numpy_draws():
        network = frx.nn.Transformer((3,), 3, key=key, **options)
    model = frx.CategoricalModel(network, frx.discrete.LogLinearMasking(), prior=frx.discrete.Masked.exclusive((3,), 2))
    loss = frx.discrete.CrossEntropy(weight=frx.discrete.ELBOWeight(), per_token=False, mask=real)
    options = {"num_steps": 200, "batch_size": 128, "optimizer": optax.adam(1e-2), "progress": False}
    fit = frx.fit(model, data, key, condition=condition, loss=loss, validate_every=50, **options)
    assert fit.history["train_loss"][-1] == pytest.approx(np.log(2), abs=0.03)
    rows = jax.tree.map(lambda leaf: leaf[:200], condition)
    draws = frx.sample(fit.model, key, 200, condition=frx.Batched(rows), grid=16).x
    # Two tokens that are lifted in the same step, one step in 16, may disagree.
    assert np.mean(draws[:, 0] ^ draws[:, 1] == label[:200]) > 0.93


def test_mistakes_are_named(key):
    with pytest.raises(ValueError, match="width=12 must be divisible by twice num_heads=4"):
        transformer(key, width=12, num_heads=4)
    with pytest.raises(ValueError, match=r"The network's event has shape \(3,\) but \(6,\) is expected"):
        transformer(key)(jnp.asarray(T), X[:3])
    with pytest.raises(ValueError, match="The condition has 1 integer labels and 0 floating elements"):
        transformer(key, time=False)(jnp.asarray(T), X, jnp.asarray(1))
    with pytest.raises(ValueError, match=r"The mask of the tokens has shape \(4,\) but \(6,\) is expected"):
        transformer(key, mask=lambda condition: condition)(jnp.asarray(T), X, jnp.ones(4, bool))
