"""Minibatch transport: exact in each block, the same ahead of training as within it, and to the same bits resumed."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize

import flowrax as frx
from flowrax.coupling import AbstractHostCoupling, KabschDistance, Pairs
from flowrax.train.fit import Prefetch
from flowrax.train.step import Task, advance, first_state


@pytest.mark.accuracy
@pytest.mark.parametrize(("n", "block_size"), [(24, 8), (22, 8), (5, 256)])
def test_each_block_is_assigned_as_by_the_hungarian_algorithm(n, block_size, getkey):
    x0, x1 = jax.random.normal(getkey(), (n, 2, 3)), jax.random.normal(getkey(), (n, 2, 3))
    paired = jax.jit(frx.ExactOT(block_size=block_size))(getkey(), x0, x1).x0
    for start in range(0, n, block_size):
        a, b = x0[start : start + block_size], x1[start : start + block_size]
        cost = jnp.sum((b[:, None] - a[None]) ** 2, axis=(2, 3))
        rows, columns = optax.assignment.hungarian_algorithm(cost)
        np.testing.assert_array_equal(paired[start : start + block_size][rows], a[columns])


@pytest.mark.parametrize(("of_noise", "of_data"), [(1e4, 1e4), (0.0, 1e4), (-1e4, 1e4)])
def test_an_offset_costs_no_digits(of_noise, of_data, getkey):
    """In single precision, against the differences in double."""
    x0 = jax.random.normal(getkey(), (64, 3), jnp.float32) + of_noise
    x1 = jax.random.normal(getkey(), (64, 3), jnp.float32) + of_data
    cost = np.sum((np.asarray(x1, np.float64)[:, None] - np.asarray(x0, np.float64)[None]) ** 2, axis=2)
    want = x0[scipy.optimize.linear_sum_assignment(cost)[1]]
    np.testing.assert_array_equal(frx.ExactOT()(getkey(), x0, x1).x0, want)


@pytest.mark.accuracy
def test_gradients_go_through_the_rows_and_not_through_their_order(getkey):
    x0, x1, weights = (jax.random.normal(getkey(), (12, 2)) for _ in range(3))
    key, coupling = getkey(), frx.ExactOT(block_size=5)
    of_x0, of_x1 = jax.grad(lambda x0, x1: jnp.sum(weights * coupling(key, x0, x1).x0), argnums=(0, 1))(x0, x1)
    # Each row has the weight of the place that it is moved to.
    paired = coupling(key, x0, x1).x0
    back = jnp.argmin(jnp.sum((x0[:, None] - paired[None]) ** 2, axis=2), axis=1)
    np.testing.assert_array_equal(of_x0, weights[back])
    np.testing.assert_array_equal(of_x1, jnp.zeros_like(x1))


@pytest.mark.accuracy
def test_shapes_are_paired_up_to_rotation(getkey):
    x1 = jax.random.normal(getkey(), (6, 4, 3))
    turns, _ = jnp.linalg.qr(jax.random.normal(getkey(), (6, 3, 3)))
    turns = turns * jnp.linalg.det(turns)[:, None, None]
    mixed = jax.random.permutation(getkey(), 6)
    paired = frx.ExactOT(cost=KabschDistance())(getkey(), (x1 @ turns)[mixed], x1)
    np.testing.assert_array_equal(paired.x0, x1 @ turns)


def test_blocks_of_one_are_refused():
    with pytest.raises(ValueError, match="block_size=1 leaves nothing to choose; use at least 2"):
        frx.ExactOT(block_size=1)


def setting(getkey):
    network = frx.nn.MLP((2,), key=getkey(), width=16, depth=1, num_frequencies=2)
    model = frx.Model(network, frx.Linear(), shape=(2,), coupling=frx.ExactOT(block_size=8))
    return model, jax.random.normal(getkey(), (100, 2))


@pytest.mark.accuracy
def test_pairings_found_ahead_are_those_of_the_step_itself(getkey):
    model, data = setting(getkey)
    parameters, static = eqx.partition(model, eqx.is_inexact_array)
    augment = lambda key, row: row + jax.random.normal(key, row.shape)  # noqa: E731
    task = Task(static, frx.Matching(), optax.sgd(0.1), augment, 20, 0.9)
    state, key, steps = first_state(parameters, task.optimizer), getkey(), jnp.asarray(7, jnp.int32)
    prefetch = Prefetch(model.coupling, task, data, key, 1000)
    within, ahead = state, state
    for start in (0, 7):
        within, within_loss, _ = advance(task, within, data, None, key, steps)
        ahead, ahead_loss, _ = advance(task, ahead, data, None, key, steps, prefetch.orders(start, 7))
        np.testing.assert_allclose(within_loss, ahead_loss, rtol=1e-6)
    prefetch.close()
    for one, other in zip(jax.tree.leaves(within), jax.tree.leaves(ahead), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    # Another pairing would have shown.
    _, unpaired, _ = advance(task, state, data, None, key, steps, jnp.tile(jnp.arange(20), (10, 1)))
    _, paired, _ = advance(task, state, data, None, key, steps)
    assert abs(unpaired / paired - 1) > 0.01


@pytest.mark.accuracy
def test_a_run_with_transport_resumes_to_the_same_bits(getkey, tmp_path):
    model, data = setting(getkey)
    options = {"optimizer": optax.adam(1e-2), "validation": data[:30], "validate_every": 14, "batch_size": 20}
    key, path = getkey(), tmp_path / "run.ckpt"
    whole = frx.fit(model, data, key, num_steps=40, progress=False, **options)
    frx.fit(model, data, key, num_steps=28, checkpoint=path, progress=False, **options)
    resumed = frx.fit(model, data, key, num_steps=40, checkpoint=path, progress=False, **options)
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(resumed), strict=True):
        if eqx.is_array(one):
            np.testing.assert_array_equal(one, other)


@pytest.mark.accuracy
def test_fewer_steps_are_held_ahead_where_costs_are_large(getkey, monkeypatch):
    """By the budget, at least one; and training does not notice."""
    model, data = setting(getkey)
    key = getkey()

    def train():
        options = {"optimizer": optax.adam(1e-2), "num_steps": 23, "batch_size": 20, "progress": False}
        return frx.fit(model, data, key, **options).last_model

    def steps(size):
        task = Task(
            eqx.filter(model, eqx.is_inexact_array, inverse=True), frx.Matching(), optax.sgd(0.1), None, size, 0.9
        )
        prefetch = Prefetch(frx.ExactOT(block_size=size), task, data, key, 100)
        prefetch.close()
        return prefetch.steps

    # Of float32 costs, 64 MiB are four times 2048 squared.
    assert [steps(size) for size in (256, 2048, 4096, 8192)] == [10, 4, 1, 1]
    want = train()
    # Costs of 20 rows in blocks of 8 are 2 * 64 + 16 numbers.
    for most in (3 * 4 * 144, 1):
        monkeypatch.setattr("flowrax.train.prefetch._MOST_BYTES", most)
        for one, other in zip(jax.tree.leaves(train()), jax.tree.leaves(want), strict=True):
            if eqx.is_array(one):
                np.testing.assert_array_equal(one, other)


class Rescaled(AbstractHostCoupling):
    """Transport of rows that an array of its own rescales first."""

    scale: jax.Array
    independent: ClassVar[bool] = False

    def costs(self, x0, x1, condition=None):
        return jnp.sum((self.scale[None, None] * (x1[:, None] - x0[None])) ** 2, axis=2)

    def order(self, costs):
        return scipy.optimize.linear_sum_assignment(costs)[1].astype(np.int32)

    def pairs(self, key, x0, x1, condition, order):
        return Pairs(x0[order], x1, order, jnp.arange(order.shape[0], dtype=jnp.int32))


@pytest.mark.accuracy
def test_a_coupling_may_hold_arrays(getkey):
    """With unit scales it is exact transport; of rows that are never the same, which would leave a choice."""
    model, data = setting(getkey)
    augment = lambda key, row: row + jax.random.normal(key, row.shape)  # noqa: E731
    options = {"optimizer": optax.adam(1e-2), "num_steps": 5, "batch_size": 16, "progress": False, "augment": augment}
    key, ends = getkey(), []
    for coupling in (Rescaled(jnp.ones(2)), frx.ExactOT()):
        ends.append(frx.fit(model, data, key, coupling=coupling, **options).last_model.network)
    for one, other in zip(*map(jax.tree.leaves, ends), strict=True):
        if eqx.is_array(one):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("pad", [-9999.0, np.nan, np.inf])
@pytest.mark.parametrize("kind", [frx.coupling.SquaredDistance, KabschDistance])
def test_costs_do_not_depend_on_padding(kind, pad, getkey):
    """Row 0 has no points, and the noise has the same padding in its last point."""
    x0, x1 = jax.random.normal(getkey(), (6, 5, 3)), jax.random.normal(getkey(), (6, 5, 3))
    mask = jnp.arange(5)[None] < jnp.array([0, 1, 2, 3, 4, 4])[:, None]
    got = kind(mask=lambda c: c)(jnp.where(mask[..., None], x1, pad), x0.at[:, 4].set(pad), mask)
    want = kind(mask=lambda c: c)(jnp.where(mask[..., None], x1, 0), x0.at[:, 4].set(0), mask)
    np.testing.assert_allclose(got, want, atol=1e-5)
    np.testing.assert_array_equal(got[0], 0)


@pytest.mark.parametrize("translate", [False, True])
def test_rotations_do_not_depend_on_padding(translate, getkey):
    x0, x1 = jax.random.normal(getkey(), (4, 5, 3)), jax.random.normal(getkey(), (4, 5, 3))
    mask = jnp.arange(5)[None] < jnp.array([0, 3, 4, 5])[:, None]
    turn = frx.coupling.Kabsch(mask=lambda c: c, translate=translate)
    clean, dirty = (
        turn(getkey(), *[jnp.where(mask[..., None], x, pad) for x in (x0, x1)], mask) for pad in (0, jnp.nan)
    )
    np.testing.assert_array_equal(clean.x0, dirty.x0)
    assert np.isfinite(dirty.x0).all() and np.all(dirty.x0[0] == 0) and np.isfinite(dirty.x1).all()
