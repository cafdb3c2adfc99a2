"""Mean flow on Gaussian data, where the flow and so the average velocity are known in closed form."""

from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flowrax as frx
from flowrax.model import AbstractAverageVelocity

MEAN = np.array([0.5, -1.0])
COVARIANCE = np.array([[1.2, 0.3], [0.3, 0.4]])
SCHEDULES = {"linear": frx.Linear(), "cosine": frx.Cosine(), "edm": frx.EDM()}


class Exact(AbstractAverageVelocity):
    """The average velocity of a Gaussian's flow."""

    oracle: frx.oracle.Gaussian
    schedule: frx.schedule.AbstractSchedule

    def average(self, t, r, x, condition=None, *, key=None):
        span = jnp.where(r == t, 1.0, r - t)
        moved = (self.oracle.flow(self.schedule, t, r, x) - x) / span
        return jnp.where(r == t, self.oracle.model(self.schedule).predict(t, x).velocity, moved)


def exact(schedule):
    oracle = frx.oracle.Gaussian(MEAN, COVARIANCE)
    return oracle, frx.Model(Exact(oracle, schedule), schedule, shape=(2,), dtype=jnp.float64)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_the_average_velocity_is_the_mean_of_the_velocity_along_the_flow(schedule, x64, key):
    oracle, model = exact(schedule)
    t, r, x = 0.2, 0.9, jax.random.normal(key, (2,))
    nodes, weights = np.polynomial.legendre.leggauss(40)
    times = jnp.asarray(t + (r - t) * (nodes + 1) / 2)
    velocities = jax.jit(jax.vmap(lambda s: model.predict(s, oracle.flow(schedule, t, s, x)).velocity))(times)
    network: Any = model.network
    average = eqx.filter_jit(network.average)(jnp.asarray(t), jnp.asarray(r), x)
    np.testing.assert_allclose(weights @ velocities / 2, average, rtol=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_the_exact_average_velocity_meets_its_target(schedule, x64, key):
    # The target is affine in the conditional velocity, so that its mean given x is the target of the ends' means.
    oracle, model = exact(schedule)
    loss = frx.loss.MeanFlowMatching(power=0.0)
    network: Any = model.network
    # And nothing else does: a network that is off by a part in a hundred.
    other = frx.Model(Scaled(network, jnp.asarray(1.01)), schedule, shape=(2,), dtype=jnp.float64)

    @jax.jit
    @jax.vmap
    def values(pair):
        x = schedule.sigma(pair[0]) * jax.random.normal(key, (2,)) + 0.3
        ends = oracle.model(schedule).predict(pair[0], x)
        scale = jnp.sum(network.average(*pair, x) ** 2)
        return scale, loss(model, pair, ends.noise, ends.data), loss(other, pair, ends.noise, ends.data)

    scale, exactly, off = (np.asarray(v) for v in values(jnp.asarray([[0.1, 0.8], [0.4, 0.5], [0.0, 1.0]])))
    assert np.all(exactly < 1e-16 * scale) and np.all(off > 1e-9 * scale)


class Scaled(AbstractAverageVelocity):
    network: AbstractAverageVelocity
    scale: jax.Array

    def average(self, t, r, x, condition=None, *, key=None):
        return self.scale * self.network.average(t, r, x, condition, key=key)


def test_the_gradient_vanishes_at_the_exact_average_velocity(x64, key):
    oracle, model = exact(frx.Linear())
    keys = jax.random.split(key, 3)
    n = 20_000
    x1, x0 = oracle.sample(keys[0], (n,)), jax.random.normal(keys[1], (n, 2))
    pairs = frx.times.TimePairs(same=0.25)(keys[2], n, 0.0, 1.0, jnp.float64)
    loss = frx.loss.MeanFlowMatching(power=0.0)

    def one(pair, x0, x1):
        def of(scale):
            network = Scaled(model.network, scale)
            return loss(frx.Model(network, frx.Linear(), shape=(2,), dtype=jnp.float64), pair, x0, x1)

        return jax.grad(of)(jnp.ones(()))

    gradients = np.asarray(jax.jit(jax.vmap(one))(pairs, x0, x1))
    assert abs(gradients.mean()) < 4 * gradients.std() / n**0.5


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("grid", [1, 3, (0.0, 0.3, 1.0)])
def test_jumps_are_exact_for_any_number_of_steps(schedule, grid, x64, key):
    oracle, model = exact(schedule)
    x0 = float(schedule.sigma(0.0)) * jax.random.normal(key, (4, 2))
    samples = frx.sample(model, key, 4, x0=x0, dynamics=frx.Jump(), grid=grid)
    np.testing.assert_allclose(samples.x, oracle.flow(schedule, 0.0, 1.0, x0), rtol=1e-9, atol=1e-9)
    steps = grid if isinstance(grid, int) else len(grid) - 1
    assert np.all(samples.stats.num_evaluations == steps)


@pytest.mark.accuracy
def test_a_model_of_average_velocity_is_sampled_and_evaluated_by_its_velocity(x64, key):
    oracle, model = exact(frx.Linear())
    x = np.asarray(oracle.sample(key, (4,)))
    np.testing.assert_allclose(frx.log_prob(model, x).value, oracle.log_prob(x), atol=1e-3)
    t, x = jnp.asarray(0.6), jnp.asarray(x[0])
    marginal = oracle.scaled(0.6, 0.4)
    score = jax.grad(lambda x: marginal.log_prob(x[None])[0])(x)
    np.testing.assert_allclose(model.predict(t, x).score, score, rtol=1e-9)


def test_gradients_go_through_jumps(x64, key):
    _, model = exact(frx.Linear())
    x0 = jax.random.normal(key, (3, 2))

    def total(scale, x0):
        network = Scaled(model.network, scale)
        other = frx.Model(network, frx.Linear(), shape=(2,), dtype=jnp.float64)
        return jnp.sum(frx.sample(other, key, 3, x0=x0, dynamics=frx.Jump(), grid=2).x ** 2)

    one = jnp.ones(())
    slope = (total(one + 1e-5, x0) - total(one - 1e-5, x0)) / 2e-5
    np.testing.assert_allclose(jax.grad(total)(one, x0), slope, rtol=1e-6)


def test_dropping_is_independent_of_the_times(key):
    # In a batch whose first rows have r = t and whose first rows are dropped, the two would be the same rows.
    n = 2000
    pairs = frx.times.TimePairs(same=0.5)(key, n, 0.0, 1.0, jnp.float32)
    same = np.asarray(pairs[:, 0] == pairs[:, 1])
    network = frx.nn.AverageVelocity(lambda t, x, condition: jnp.broadcast_to(condition[1], x.shape))
    model = frx.Model(network, frx.Linear(), shape=(1,), dtype=jnp.float32)
    loss = frx.loss.MeanFlowMatching(condition_dropout=frx.loss.ConditionDropout(0.5))
    zero = jnp.zeros(1)

    def output(pair, key):
        return loss.output_and_target(model, *pair, zero, zero, jnp.ones(1), key=key)[0][0]

    dropped = np.asarray(jax.jit(jax.vmap(output))(pairs, jax.random.split(key, n))) == 0
    # Four standard deviations of a correlation of independent coins.
    assert abs(np.corrcoef(same, dropped)[0, 1]) < 4 / n**0.5
    assert 0.45 < dropped.mean() < 0.55


def test_mistakes_are_named(key):
    plain = frx.Model(lambda t, x, c: x, frx.Linear(), shape=(2,), dtype=jnp.float32)
    with pytest.raises(ValueError, match=r"The model has no average velocity; build it as Model\(nn.AverageVelocity"):
        frx.sample(plain, key, 2, dynamics=frx.Jump(), grid=1)
    with pytest.raises(ValueError, match="Mean flow needs a pair of times"):
        frx.loss.MeanFlowMatching()(plain, jnp.asarray(0.5), jnp.zeros(2), jnp.zeros(2))
    with pytest.raises(ValueError, match="guidance needs an unconditional velocity"):
        frx.loss.MeanFlowMatching(guidance=frx.loss.MeanFlowGuidance(2.0))


@pytest.mark.accuracy
def test_one_trained_jump_goes_where_the_flow_goes(getkey):
    oracle = frx.oracle.Gaussian(np.float32(MEAN), np.float32(COVARIANCE))
    network = frx.nn.AverageVelocity(frx.nn.MLP((2,), key=getkey(), condition_size=1, width=64, depth=2))
    model = frx.Model(network, frx.Linear(), shape=(2,))
    loss = frx.loss.MeanFlowMatching(power=0.0)
    data = oracle.sample(getkey(), (4096,))
    result = frx.fit(model, data, getkey(), loss=loss, optimizer=optax.adam(5e-3), num_steps=600, progress=False)
    x0 = jax.random.normal(getkey(), (1000, 2))
    exact = np.asarray(oracle.flow(frx.Linear(), 0.0, 1.0, x0))

    def lost(dynamics, solver):
        """The part of the variance that one evaluation misses."""
        x = frx.sample(result.model, getkey(), 1000, x0=x0, dynamics=dynamics, solver=solver, grid=1).x
        return np.mean((x - exact) ** 2) / np.mean(exact.var(0))

    # One step along the velocity goes to the mean of the data and loses all of it.
    assert lost(frx.ProbabilityFlow(), dfx.Euler()) > 0.8
    assert lost(frx.Jump(), None) < 0.1
