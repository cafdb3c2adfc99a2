"""Couplings keep conditions with their data, noise with its law, and padding out of everything."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
from scipy.spatial.transform import Rotation

import flowrax as frx
from flowrax.coupling import (
    AbstractCoupling,
    ConditionalCost,
    EquivariantOT,
    ExactOT,
    Greedy,
    Independent,
    JointDraw,
    Kabsch,
    KabschDistance,
    Pairs,
    PerData,
    PerNoise,
    Plan,
    Reflow,
    Sinkhorn,
    SquaredDistance,
    UnbalancedSinkhorn,
    kabsch_cost,
)
from flowrax.train.prefetch import Prefetch
from flowrax.train.step import Task, advance, first_state, held_out_loss

DRAWS = {"data": PerData(), "noise": PerNoise(), "joint": JointDraw(), "all": JointDraw(replace=False)}
COUPLINGS = {
    "independent": Independent(),
    "exact": ExactOT(block_size=5),
    **{f"exact-{name}": ExactOT(draw=draw) for name, draw in DRAWS.items()},
    **{f"sinkhorn-{name}": Sinkhorn(max_iterations=5, draw=draw) for name, draw in DRAWS.items()},
    "unbalanced": UnbalancedSinkhorn(max_iterations=5),
    "unbalanced-joint": UnbalancedSinkhorn(max_iterations=5, draw=JointDraw()),
    "greedy": Greedy(draw=PerNoise()),
    "plan": Plan(lambda costs: jnp.exp(-costs)),
    "conditional": ExactOT(cost=ConditionalCost(by=lambda c: c["label"])),
    "conditional-sinkhorn": Sinkhorn(max_iterations=5, cost=ConditionalCost(by=lambda c: c["label"], weight=2.0)),
    "kabsch": Kabsch(mask=lambda c: c["mask"]),
    "kabsch-data": Kabsch(noise_to_data=False, translate=True),
    "equivariant": EquivariantOT(block_size=4, mask=lambda c: c["mask"], draw=JointDraw()),
    "reflow": Reflow(lambda x0, key, condition: 2 * x0),
}


def batch(getkey, dtype, n=9):
    x0, x1 = (jax.random.normal(getkey(), (n, 4, 3), dtype) for _ in range(2))
    return x0, x1, {"label": jnp.arange(n) % 2, "mask": jnp.ones((n, 4), bool).at[3, 3].set(False)}


# The other draws only move rows, which the test of conditions shows.
KINDS = [n for n in COUPLINGS if not n.startswith(("exact-", "sinkhorn-"))]


@pytest.mark.parametrize("name", [*KINDS, "exact-joint", "sinkhorn-all"])
def test_every_coupling_compiled_and_differentiated(name, getkey):
    """Rows and conditions agree, and gradients are finite wherever the two ends are not moved."""
    coupling, key = COUPLINGS[name], getkey()
    x0, x1, condition = batch(getkey, jnp.float32)

    @eqx.filter_jit
    def run(coupling, x0):
        def total(x0):
            pairs = coupling(key, x0, x1, condition)
            return jnp.sum(pairs.x0**2), pairs

        (_, pairs), slope = jax.value_and_grad(total, has_aux=True)(x0)
        return pairs, slope

    with jax.debug_nans(True):
        pairs, slope = run(coupling, x0)
    assert pairs.x0.dtype == pairs.x1.dtype == jnp.float32
    if not isinstance(coupling, Kabsch | EquivariantOT | Reflow):
        np.testing.assert_array_equal(pairs.x0, x0[pairs.noise_rows])
        np.testing.assert_array_equal(pairs.x1, x1[pairs.data_rows])
        counts = np.bincount(pairs.noise_rows, minlength=9)
        np.testing.assert_allclose(slope, 2 * counts[:, None, None] * np.asarray(x0), rtol=1e-5)
    np.testing.assert_array_equal(pairs.follow(condition)["label"], condition["label"][pairs.data_rows])


@pytest.mark.accuracy
@pytest.mark.parametrize("name", ["exact-joint", "sinkhorn-data", "greedy", "kabsch-data"])
def test_couplings_of_several_batches_at_once(name, getkey):
    coupling, keys = COUPLINGS[name], jax.random.split(getkey(), 2)
    x0, x1, condition = batch(getkey, jnp.float32)
    stacked = [jnp.stack([z, z[::-1]]) for z in (x0, x1)]
    mapped = eqx.filter_jit(jax.vmap(lambda k, a, b: coupling(k, a, b, condition)))(keys, *stacked)
    alone = eqx.filter_jit(coupling)(keys[1], stacked[0][1], stacked[1][1], condition)
    np.testing.assert_array_equal(mapped.noise_rows[1], alone.noise_rows)
    np.testing.assert_allclose(mapped.x1[1], alone.x1, rtol=1e-4, atol=1e-5)


def test_transport_in_one_dimension_is_sorted(getkey):
    x0, x1 = jax.random.normal(getkey(), (50, 1)), 3 * jax.random.normal(getkey(), (50, 1)) - 7
    pairs = ExactOT()(getkey(), x0, x1)
    np.testing.assert_array_equal(jnp.argsort(pairs.x0[:, 0]), jnp.argsort(x1[:, 0]))


def classes(getkey, n=64):
    """Two classes far apart, along the first axis."""
    label = jax.random.bernoulli(getkey(), 0.4, (n,)).astype(jnp.int32)
    x1 = jax.random.normal(getkey(), (n, 2)) + 6.0 * label.astype(float)[:, None] * jnp.asarray([[1.0, 0.0]])
    return jax.random.normal(getkey(), (n, 2)), x1, label


@pytest.mark.accuracy
@pytest.mark.parametrize("inner", [ExactOT, Greedy, Sinkhorn])
def test_conditional_transport_keeps_the_law_of_the_noise(inner, getkey):
    """Mean and variance of the noise of one class, of 50 batches, within four standard errors; without
    `ConditionalCost` the mean is off by what transport takes from each end."""

    def noise_of_class(coupling):
        kept, compiled = [], eqx.filter_jit(coupling)
        for _ in range(50):
            x0, x1, label = classes(getkey)
            pairs = compiled(getkey(), x0, x1, label)
            kept.append(np.asarray(pairs.x0[:, 0])[np.asarray(pairs.follow(label)) == 1])
        return np.concatenate(kept)

    within = noise_of_class(inner(cost=ConditionalCost()))
    # Of a soft plan some noise is drawn several times; at most, for a plan that is uniform, the variances double.
    n = len(within) / (2 if inner is Sinkhorn else 1)
    assert abs(within.mean()) < 4 / np.sqrt(n)
    assert abs(within.var() - 1) < 4 * np.sqrt(2 / n)
    # What is left to the greedy one at the end lies on both sides.
    if inner is not Greedy:
        assert noise_of_class(inner()).mean() > 0.5


def test_conditional_transport_is_optimal_in_each_class(getkey):
    """Each class gets the noise that came with it, by the assignment of its own rows."""
    x0, x1, label = classes(getkey)
    for labels in (label, jnp.stack([label, label], axis=1), label == 1):
        pairs = ExactOT(cost=ConditionalCost(by=lambda c: c["y"]))(getkey(), x0, x1, {"y": labels, "other": x1})
        for own in (np.flatnonzero(label == 0), np.flatnonzero(label == 1)):
            costs = np.sum((np.asarray(x1)[own, None] - np.asarray(x0)[None, own]) ** 2, axis=2)
            want = own[scipy.optimize.linear_sum_assignment(costs)[1]]
            np.testing.assert_array_equal(pairs.noise_rows[own], want)


def test_a_finite_weight_is_the_cost_of_a_longer_vector(x64, getkey):
    """Of data and noise joined by the root of the weight times the condition."""
    x0, x1, label = classes(getkey)
    y = jax.random.normal(getkey(), (64, 2))
    got = ConditionalCost(by=lambda c: c[0], weight=9.0)(x1, x0, (y, label))
    longer = [jnp.concatenate([x, 3 * y], axis=1) for x in (x1, x0)]
    want = np.sum((np.asarray(longer[0])[:, None] - np.asarray(longer[1])[None]) ** 2, axis=2)
    np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-10)


def test_conditions_that_cannot_be_told_are_refused(getkey):
    x = jnp.zeros((4, 2))
    for condition, count in ((None, 0), ((x, x), 2)):
        with pytest.raises(ValueError, match=f"compares one array, but the condition has {count}; pass condition="):
            ExactOT(cost=ConditionalCost())(getkey(), x, x, condition)
    with pytest.raises(ValueError, match=r"weight=0.0 does not keep conditions together"):
        ConditionalCost(weight=0.0)
    with pytest.raises(ValueError, match=r"mask has shape \(3,\) but \(4,\) is expected"):
        SquaredDistance(mask=lambda c: c)(x, x, jnp.ones(3))


def molecules(getkey, n=6, p=7):
    """Sets of points of different sizes, padded with numbers that must not matter."""
    x0, x1 = (jax.random.normal(getkey(), (n, p, 3)) + 1.5 for _ in range(2))
    mask = jnp.arange(p)[None] < jnp.asarray([7, 4, 6, 7, 5, 3])[:, None]
    return x0, jnp.where(mask[..., None], x1, 99.0), mask


@pytest.mark.accuracy
def test_masked_costs_are_those_of_the_points_that_are_left(x64, getkey):
    x0, x1, mask = molecules(getkey)
    costs = (eqx.filter_jit(cost(mask=lambda c: c))(x1, x0, mask) for cost in (SquaredDistance, KabschDistance))
    x0, x1, mask, plain, turned = map(np.asarray, (x0, x1, mask, *costs))
    for i in range(6):
        kept = np.flatnonzero(mask[i])
        for j in range(6):
            a, b = x1[i, kept], x0[j, kept]
            np.testing.assert_allclose(plain[i, j], np.sum((a - b) ** 2), rtol=1e-9)
            distance = Rotation.align_vectors(a - a.mean(0), b - b.mean(0))[1]
            np.testing.assert_allclose(turned[i, j], distance**2, rtol=1e-9)


@pytest.mark.accuracy
def test_squared_and_plain_distances_are_different_transports(x64, getkey):
    x0, x1 = (jax.random.normal(getkey(), (32, 4, 3)) for _ in range(2))
    cost = np.asarray(jax.jit(kabsch_cost)(x1, x0))
    costs = (eqx.filter_jit(EquivariantOT(cost=KabschDistance(squared=s)).costs)(x0, x1) for s in (True, False))
    squared, plain = (EquivariantOT().order(jax.device_get(c)) for c in costs)
    rows = np.arange(32)
    assert np.sum(cost[rows, squared]) < np.sum(cost[rows, plain])
    assert np.sum(np.sqrt(cost[rows, squared])) > np.sum(np.sqrt(cost[rows, plain]))


@pytest.mark.accuracy
@pytest.mark.parametrize("noise_to_data", [True, False])
def test_equivariant_transport_finds_turned_copies(noise_to_data, x64, getkey):
    """And turns them back, whatever is in the padding."""
    _, x1, mask = molecules(getkey)
    centred = jnp.where(mask[..., None], x1, 0)
    centred = centred - jnp.sum(centred, 1, keepdims=True) / jnp.sum(mask, 1).astype(float)[:, None, None]
    x1 = jnp.where(mask[..., None], centred, 99.0)
    turns = jnp.asarray(Rotation.random(6, np.random.default_rng(0)).as_matrix())
    mixed = jax.random.permutation(getkey(), 6)
    coupling = EquivariantOT(mask=lambda c: c, noise_to_data=noise_to_data)
    pairs = eqx.filter_jit(coupling)(getkey(), (x1 @ turns)[mixed], x1, mask)
    np.testing.assert_array_equal(mixed[pairs.noise_rows], np.arange(6))
    np.testing.assert_allclose(pairs.x0, pairs.x1, atol=1e-10)
    kept = pairs.x1 if noise_to_data else pairs.x0
    want = x1 if noise_to_data else x1 @ turns
    np.testing.assert_allclose(kept, jnp.where(mask[..., None], want, 0), atol=1e-10)


@pytest.mark.accuracy
def test_a_rotation_of_the_noise_leaves_its_length(getkey):
    """Unless it is moved to the centre of the data."""
    x0, x1, mask = molecules(getkey)
    turned = eqx.filter_jit(Kabsch())(getkey(), x0, x1).x0
    np.testing.assert_allclose(jnp.sum(turned**2, axis=(1, 2)), jnp.sum(x0**2, axis=(1, 2)), rtol=1e-5)
    moved = eqx.filter_jit(Kabsch(translate=True, mask=lambda c: c))(getkey(), x0, x1, mask)
    for end in (moved.x0, moved.x1):
        centre = jnp.sum(jnp.where(mask[..., None], x1, 0), 1) / jnp.sum(mask, 1).astype(float)[:, None]
        np.testing.assert_allclose(jnp.sum(end, 1) / jnp.sum(mask, 1).astype(float)[:, None], centre, rtol=1e-4)


def test_reflow_pairs_noise_with_the_end_of_its_path(x64, getkey):
    """The flow to a Gaussian with its own axes is the affine map of its moments; here inside a compiled step."""
    teacher = frx.oracle.Gaussian(np.array([1.0, -2.0]), np.diag([4.0, 0.25])).model(frx.Linear())
    coupling = Reflow(lambda x0, key, condition: frx.sample(teacher, key, x0.shape[0], x0=x0, rtol=1e-8, atol=1e-8).x)
    x0 = jax.random.normal(getkey(), (5, 2))
    pairs = eqx.filter_jit(coupling)(getkey(), x0, jnp.zeros((5, 2)))
    np.testing.assert_array_equal(pairs.x0, x0)
    np.testing.assert_allclose(pairs.x1, np.array([1.0, -2.0]) + np.asarray(x0) * np.array([2.0, 0.5]), rtol=1e-6)
    with pytest.raises(ValueError, match=r"flow\(x0, key, condition\) has shape \(4, 2\) but \(5, 2\) is expected"):
        Reflow(lambda x0, key, condition: x0[1:])(getkey(), x0, x0)


class Repeat(eqx.Module):
    """Predicts its condition, times a parameter."""

    factor: jax.Array

    def __call__(self, t, x, condition):
        return self.factor * condition


def task_of(coupling, network=None, batch_size=16):
    """The loss is zero only where the data are the conditions."""
    network = Repeat(jnp.ones(())) if network is None else network
    model = frx.Model(network, frx.Linear(), frx.Data(), shape=(2,), coupling=coupling)
    parameters, static = eqx.partition(model, eqx.is_inexact_array)
    return Task(static, frx.Matching(), optax.sgd(0.1), None, batch_size, 0.9), parameters


@pytest.mark.parametrize("name", [n for n in COUPLINGS if n.startswith(("exact-", "sinkhorn-", "greedy"))])
def test_conditions_follow_their_data_into_the_loss(name, getkey):
    """In a batch, and in the larger one of a validation."""
    task, parameters = task_of(COUPLINGS[name])
    loss = eqx.filter_jit(
        lambda rows, condition, key: task.batch_loss(parameters, rows, condition, key, training=False)[0]
    )
    rows = jax.random.normal(getkey(), (39, 2))
    assert loss(rows[:16], rows[:16], getkey()) == 0
    assert loss(rows, rows, getkey()) == 0
    assert loss(rows, rows[::-1], getkey()) > 0.1


class Weighted(AbstractCoupling):
    """Counts the pairs by the first number of their condition."""

    independent: ClassVar[bool] = False

    def __call__(self, key, x0, x1, condition=None):
        rows = jnp.arange(x0.shape[0], dtype=jnp.int32)
        return Pairs(x0, x1, rows, rows, condition[:, 0] / jnp.mean(condition[:, 0]))


def test_weights_count_in_the_loss(getkey):
    task, parameters = task_of(Weighted(), Repeat(jnp.zeros(())))
    rows, weights = jax.random.normal(getkey(), (16, 2)), jnp.arange(16.0)
    got = task.batch_loss(parameters, rows, jnp.stack([weights, weights], 1), getkey(), training=True)[0]
    want = np.average(np.mean(np.square(rows), axis=1), weights=weights)
    np.testing.assert_allclose(got, want, rtol=1e-5)


class Sizes(AbstractCoupling):
    """Pairs each row with the first of its batch."""

    independent: ClassVar[bool] = False

    def __call__(self, key, x0, x1, condition=None):
        rows = jnp.arange(x0.shape[0], dtype=jnp.int32)
        return Pairs(x0, jnp.broadcast_to(x1[:1], x1.shape), rows, 0 * rows)


def test_validation_pairs_in_batches_of_the_size_of_training(getkey):
    task, parameters = task_of(Sizes(), Repeat(jnp.zeros(())))
    rows = jax.random.normal(getkey(), (39, 2))
    got = held_out_loss(task, first_state(parameters, task.optimizer), rows, rows, getkey(), 1)
    first = np.asarray(rows)[[0] * 16 + [16] * 16 + [32] * 7]
    np.testing.assert_allclose(got, np.mean(first**2), rtol=1e-5)


@pytest.mark.accuracy
def test_conditional_pairs_are_found_ahead(getkey):
    """The same as within the step, of data that carry conditions."""
    coupling = ExactOT(block_size=8, cost=ConditionalCost(by=lambda c: c > 0), draw=JointDraw())
    network = frx.nn.MLP((2,), condition_size=1, key=getkey(), width=8, depth=1, num_frequencies=2)
    task, parameters = task_of(coupling, network)
    data, condition = jax.random.normal(getkey(), (100, 2)), jax.random.normal(getkey(), (100, 1))
    state, key, steps = first_state(parameters, task.optimizer), getkey(), jnp.asarray(5, jnp.int32)
    prefetch = Prefetch(coupling, task, data, key, 100, condition)
    within, loss, _ = advance(task, state, data, condition, key, steps)
    ahead, other, _ = advance(task, state, data, condition, key, steps, prefetch.orders(0, 5))
    prefetch.close()
    np.testing.assert_allclose(loss, other, rtol=1e-6)
    for one, two in zip(jax.tree.leaves(within), jax.tree.leaves(ahead), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)


def test_fit_gives_conditions_to_the_coupling(getkey):
    """Ahead of training and in validation, and the model says that it has no score."""
    model = frx.Model(Repeat(jnp.zeros(())), frx.Linear(), frx.Data(), shape=(2,), t_min=0.01)
    data = jax.random.normal(getkey(), (40, 2))
    options = {"optimizer": optax.sgd(0.1), "num_steps": 40, "batch_size": 8, "validate_every": 40, "progress": False}
    coupling = ExactOT(cost=ConditionalCost(by=lambda c: c > 0), draw=JointDraw())
    held_out = {"validation": data[:11], "validation_condition": data[:11]}
    result = frx.fit(model, data, getkey(), coupling=coupling, condition=data, **options, **held_out)
    # The loss is the square of what the factor lacks to one, times that of the data.
    assert jax.tree.leaves(result.last_model.network)[0] > 0.9
    assert result.history["validation_loss"][0] < 0.5
    with pytest.raises(ValueError, match="has no score"):
        _ = result.last_model.predict(0.5, data[0], data[0]).score
