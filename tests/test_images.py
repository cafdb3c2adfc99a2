"""The networks for images: how they start, what they commute with, what reaches them, and that they learn digits."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flowrax as frx
from networks import numpy_draws, stirred

SHAPE = (2, 4, 8)


def dit(key, **options):
    options = {"width": 16, "depth": 2, "num_heads": 2, "num_frequencies": 3} | options
    with numpy_draws():
        return frx.nn.DiT(options.pop("shape", SHAPE), key=key, **options)


def unet(key, **options):
    options = {"width": 8, "num_blocks": 1, "attention_levels": (), "num_heads": 2, "num_frequencies": 3} | options
    with numpy_draws():
        return frx.nn.UNet(options.pop("shape", SHAPE), key=key, **options)


NETWORKS = {"dit": dit, "unet": unet}


@eqx.filter_jit
def rows_of(network, t, x):
    return jax.vmap(lambda x: network(t, x))(x)


@pytest.mark.accuracy
@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_a_new_network_is_zero_and_every_weight_learns(make, getkey):
    network = make(getkey(), num_classes=3, vector_size=2)
    x, t, condition = jax.random.normal(getkey(), SHAPE), jnp.asarray(0.3), (jnp.asarray(1), jnp.ones(2))
    parameters, static = eqx.partition(network, eqx.is_inexact_array)
    wanted = jax.random.normal(getkey(), SHAPE)

    @jax.jit
    def gradient_and_output(p):
        def loss(p):
            out = eqx.combine(p, static)(t, x, condition)
            return jnp.sum((out - wanted) ** 2), out

        return jax.grad(loss, has_aux=True)(p)

    gradient, output = gradient_and_output(parameters)
    np.testing.assert_array_equal(output, jnp.zeros(SHAPE))
    # What is zero at first lets the gradient through one layer a step.
    for _ in range(3):
        parameters = jax.tree.map(lambda p, g: np.asarray(p) - np.float32(1e-2) * np.asarray(g), parameters, gradient)
        gradient, _ = gradient_and_output(parameters)
    flat, _ = jax.tree_util.tree_flatten_with_path(gradient)
    silent = [jax.tree_util.keystr(path) for path, leaf in flat if not np.any(np.asarray(leaf))]
    # The softmax of attention does not see what is common to all keys.
    assert [name for name in silent if "key_proj.bias" not in name] == []


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_time_condition_and_dropout_change_the_output(make, getkey):
    network = stirred(make(getkey(), num_classes=3, vector_size=2, dropout=0.5), getkey())
    x, t, condition = jax.random.normal(getkey(), SHAPE), jnp.asarray(0.3), (jnp.asarray(1), jnp.ones(2))
    call = eqx.filter_jit(network)
    base = call(t, x, condition)
    assert base.shape == SHAPE
    assert base.dtype == x.dtype
    np.testing.assert_array_equal(base, call(t, x, condition))
    others = [
        call(jnp.asarray(0.6), x, condition),
        call(t, x, (jnp.asarray(3), jnp.ones(2))),
        call(t, x, (jnp.asarray(1), jnp.zeros(2))),
        call(t, x, condition, key=getkey()),
    ]
    # Which is false of NaN: the label of no class, 3, is one that the network reads.
    assert all(float(jnp.max(jnp.abs(other - base))) > 1e-3 for other in others)


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_double_precision_agrees_with_single(make, key):
    single = stirred(make(key), key)
    x, t = jax.random.normal(key, SHAPE), jnp.asarray(0.3)
    out = eqx.filter_jit(single)(t, x)
    with jax.enable_x64(True):
        double = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64) if eqx.is_inexact_array(a) else a, single)
        exact = eqx.filter_jit(double)(jnp.asarray(0.3, jnp.float64), jnp.asarray(x, jnp.float64))
        assert exact.dtype == jnp.float64
    np.testing.assert_allclose(out, exact, rtol=1e-3, atol=1e-4)


@pytest.mark.accuracy
def test_a_periodic_unet_commutes_with_shifts(x64, key):
    network = stirred(unet(key, periodic=True), key)
    x, t = jax.random.normal(key, SHAPE), jnp.asarray(0.3)
    x = np.asarray(x)
    both = np.stack([x, np.roll(x, (2, 4), axis=(1, 2)), np.roll(x, (1, 3), axis=(1, 2))])
    base, even, odd = np.asarray(rows_of(network, t, both))
    np.testing.assert_allclose(even, np.roll(base, (2, 4), axis=(1, 2)), atol=1e-10)
    # What is halved does not commute with a shift by one.
    assert np.abs(odd - np.roll(base, (1, 3), axis=(1, 2))).max() > 1e-3


def test_patches_are_squares_and_fit_together_again(key):
    network = dit(key)
    x = jnp.arange(64.0).reshape(SHAPE)
    patches = network.patches(x)
    assert patches.shape == (8, 8)
    np.testing.assert_array_equal(patches[5].reshape(2, 2, 2), x[:, 2:4, 2:4])
    np.testing.assert_array_equal(network.image(patches), x)


def test_without_positions_a_transformer_commutes_with_permutations_of_patches(x64, key, monkeypatch):
    network = stirred(dit(key), key)
    x, t, order = jax.random.normal(key, SHAPE), jnp.asarray(0.3), np.array([3, 1, 7, 0, 2, 6, 5, 4])

    @jax.jit
    def permuted(x):
        return network.image(network.patches(x)[order])

    def difference():
        # A fresh function, since the positions are not among the arguments.
        ahead, behind = jax.jit(jax.vmap(lambda x: network(t, x)))(np.stack([x, permuted(x)]))
        return np.abs(behind - permuted(ahead)).max()

    assert difference() > 1e-3
    positions = np.asarray(network.positions(x.dtype))
    # All positions differ, and their products depend on differences of places alone.
    gram = positions @ positions.T
    np.testing.assert_allclose(np.diag(gram), 8.0, rtol=1e-12)
    np.testing.assert_allclose([gram[0, 1], gram[0, 5]], [gram[2, 3], gram[2, 7]], rtol=1e-12)
    assert np.linalg.matrix_rank(positions) > 1
    monkeypatch.setattr(frx.nn.DiT, "positions", lambda self, dtype: jnp.zeros((8, 16), dtype))
    assert difference() < 1e-10


def test_bad_images_and_conditions_are_named(key):
    with pytest.raises(ValueError, match=r"sides divisible by 3, the side of a patch"):
        dit(key, patch_size=3)
    with pytest.raises(ValueError, match="width=6 must be divisible by 4"):
        dit(key, width=6)
    with pytest.raises(ValueError, match="sides divisible by 8, since they are halved"):
        unet(key, multipliers=(1, 1, 1, 1))
    with pytest.raises(ValueError, match="0 integer labels and 0 floating elements but the network takes 1 and 0"):
        dit(key, num_classes=3)(jnp.asarray(0.1), jnp.zeros(SHAPE))


def digits():
    from sklearn.datasets import load_digits

    data = load_digits()
    images = (data.images[:, None] / 8 - 1).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(images))
    labels = data.target[order].astype(np.int32)
    images = images[order]
    return images[:1500], labels[:1500], images[1500:], labels[1500:]


def best_linear_loss(train, held_out, times, key):
    """The held-out loss of the best affine velocity at each time, from the moments of the training images."""
    flat, other = train.reshape(len(train), -1).astype(np.float64), held_out.reshape(len(held_out), -1)
    mean, cov = flat.mean(0), np.cov(flat.T)
    noise = np.random.default_rng(key).normal(size=other.shape)
    losses = []
    for t in times:
        x = t * other + (1 - t) * noise
        total = t**2 * cov + (1 - t) ** 2 * np.eye(len(mean))
        gain = (t * cov - (1 - t) * np.eye(len(mean))) @ np.linalg.inv(total)
        predicted = mean + (x - t * mean) @ gain.T
        losses.append(np.mean((predicted - (other - noise)) ** 2))
    return np.mean(losses)


@pytest.mark.accuracy
@pytest.mark.parametrize("name", NETWORKS)
def test_digits_are_learned_beyond_the_best_linear_predictor(name, getkey):
    images, labels, held_out, held_out_labels = digits()
    network = {
        "dit": lambda: dit(getkey(), shape=(1, 8, 8), width=32, num_classes=10),
        "unet": lambda: unet(getkey(), shape=(1, 8, 8), num_classes=10),
    }[name]()
    matching = frx.Matching(condition_dropout=frx.loss.ConditionDropout(0.1, null=10))
    parameters, static = eqx.partition(network, eqx.is_inexact_array)
    optimizer = optax.adam(1e-2)

    def mean_loss(parameters, rows, labels, key, training):
        model = frx.Model(eqx.combine(parameters, static), frx.Linear(), shape=(1, 8, 8))
        keys = jax.random.split(key, len(rows) + 2)
        t = matching.times(keys[0], len(rows), 0.0, 1.0, jnp.float32)
        x0 = jax.random.normal(keys[1], rows.shape)

        def one(t, x0, x1, label, key):
            return matching(model, t, x0, x1, label, key=key if training else None)

        return jnp.mean(jax.vmap(one)(t, x0, rows, labels, keys[2:]))

    @jax.jit
    def step(parameters, state, key):
        rows = jax.random.randint(key, (32,), 0, len(images))
        gradient = jax.grad(mean_loss)(parameters, jnp.asarray(images)[rows], jnp.asarray(labels)[rows], key, True)
        # optax itself mixes dtypes.
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(parameters, updates), state

    state = optimizer.init(parameters)
    # Step by step, since convolutions inside a compiled loop are slow on CPUs.
    for _ in range({"dit": 300, "unet": 150}[name]):
        parameters, state = step(parameters, state, getkey())
    loss = jax.jit(mean_loss, static_argnums=4)(parameters, held_out, held_out_labels, getkey(), False)
    linear = best_linear_loss(images, held_out, (np.arange(50) + 0.5) / 50, 0)
    assert loss < 0.95 * linear


@pytest.mark.parametrize("make", [dit, unet], ids=["dit", "unet"])
def test_what_a_network_cannot_read_of_a_condition_is_refused(make, key):
    """A label beyond the classes is not quietly the label of no class: NaN where nobody can look."""
    network, t, x = make(key, num_classes=3), jnp.asarray(0.1), jnp.zeros(SHAPE)
    for label in (4, -1):
        with pytest.raises(ValueError, match=f"The label {label} is none of the 3 classes, which count from 0"):
            network(t, x, jnp.asarray(label))
    with pytest.raises(ValueError, match="The condition has booleans; convert them to floats"):
        network(t, x, (jnp.asarray(1), jnp.ones(4, bool)))
    embed = eqx.filter_jit(lambda label: network.context(t, label, x.dtype))
    with jax.debug_nans(False):
        assert jnp.all(jnp.isnan(embed(jnp.asarray(4)))) and jnp.all(jnp.isnan(embed(jnp.asarray(-1))))
    assert jnp.all(jnp.isfinite(embed(jnp.asarray(3))))
