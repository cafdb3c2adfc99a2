"""jit, vmap and grad through the verbs, in single and double precision, with NaNs trapped."""

import functools

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowrax as frx
from flowrax.dynamics import Constant

KEY = jax.random.key(5)


class Net(eqx.Module):
    """A perceptron of (t, x, condition)."""

    mlp: eqx.nn.MLP

    def __call__(self, t, x, condition):
        return self.mlp(jnp.concatenate([jnp.reshape(t, 1).astype(x.dtype), x, condition]))


def make_model(dtype):
    net = Net(eqx.nn.MLP(5, 2, 8, 1, activation=jnp.tanh, dtype=dtype, key=KEY))
    return frx.Model(net, frx.Linear(), shape=(2,))


def numbers(dtype):
    """Model, start or data `(3, 2)`, and a condition for each `(3, 2)`."""
    x = jax.random.normal(KEY, (3, 2), dtype)
    return make_model(dtype), x, jax.random.normal(jax.random.fold_in(KEY, 1), (3, 2), dtype)


GRID, TIGHT = dict(grid=8), dict(rtol=1e-8, atol=1e-8)


def by_sample(stepping, model, x, condition):
    samples = frx.sample(model, KEY, 3, x0=x, condition=frx.Batched(condition), with_log_prob=True, **stepping)
    return jnp.sum(jnp.sin(samples.x)) + jnp.sum(samples.log_prob)


def by_log_prob(stepping, model, x, condition):
    return jnp.sum(frx.log_prob(model, x, condition=frx.Batched(condition), **stepping).value)


def by_hutchinson(stepping, model, x, condition):
    divergence = frx.Hutchinson(2)
    answer = frx.log_prob(model, x, condition=frx.Batched(condition), key=KEY, divergence=divergence, **stepping)
    return jnp.sum(answer.value) + jnp.sum(answer.standard_error)


def by_sde(stepping, model, x, condition):
    dynamics = frx.ReverseSDE(Constant(0.3))
    samples = frx.sample(model, KEY, 3, x0=x, condition=frx.Batched(condition), dynamics=dynamics, **stepping)
    return jnp.sum(jnp.sin(samples.x))


CASES = {
    "sample on a grid": (by_sample, GRID),
    "sample at a tolerance": (by_sample, TIGHT),
    "log_prob on a grid": (by_log_prob, GRID),
    "log_prob at a tolerance": (by_log_prob, TIGHT),
    "log_prob by probes": (by_hutchinson, GRID),
    "an SDE on a grid": (by_sde, GRID),
}


def gradient_error(function, stepping):
    """Relative error of the derivative along one direction of model, x and condition each, by central differences."""
    arguments = numbers(jnp.float64)
    arrays, static = eqx.partition(arguments, eqx.is_inexact_array)

    @jax.jit
    @jax.value_and_grad
    def solve(arrays):
        return function(stepping, *eqx.combine(arrays, static))

    gradient = solve(arrays)[1]
    errors, h = [], 1e-4
    for part in range(3):
        # A direction in which the gradient is not lost among others: its own sign.
        only = [g if i == part else jax.tree.map(jnp.zeros_like, g) for i, g in enumerate(gradient)]
        direction = jax.tree.map(jnp.sign, tuple(only))
        slope = sum(jnp.vdot(g, d) for g, d in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True))
        moved = [solve(jax.tree.map(lambda a, d, k=k: a + k * h * d, arrays, direction))[0] for k in (-2, -1, 1, 2)]
        # The fourth-order difference.
        difference = (moved[0] - 8 * moved[1] + 8 * moved[2] - moved[3]) / (12 * h)
        errors.append(float(jnp.abs(slope / difference - 1)))
    return errors


@pytest.mark.accuracy
@pytest.mark.parametrize("case", CASES)
def test_gradients(case, x64):
    """With respect to parameters, start and condition."""
    assert max(gradient_error(*CASES[case])) <= 1e-5


@pytest.mark.accuracy
@pytest.mark.parametrize("adjoint", [dfx.DirectAdjoint(), dfx.BacksolveAdjoint()])
def test_other_adjoints_give_the_same_gradient(adjoint, x64):
    model, x, condition = numbers(jnp.float64)

    def value(x, options):
        samples = frx.sample(model, KEY, 3, x0=x, condition=frx.Batched(condition), **options)
        return jnp.sum(jnp.sin(samples.x))

    want = jax.grad(value)(x, TIGHT)
    got = jax.grad(value)(x, {**TIGHT, "adjoint": adjoint, "max_steps": 64})
    assert np.allclose(got, want, rtol=1e-5, atol=1e-6)


class Counted(eqx.Module):
    """Counts how often it is traced."""

    counter: list = eqx.field(static=True)

    def __call__(self, t, x, condition):
        self.counter.append(None)
        return -x if condition is None else -x + condition


@pytest.mark.parametrize("verb", ["sample", "log_prob"])
def test_second_call_compiles_nothing(verb):
    """Other keys, numbers, tolerances and conditions of the same shapes trace nothing anew."""
    counter = []

    def call(i):
        model = frx.Model(Counted(counter), frx.Linear(), shape=(2,), dtype=np.float32)
        tolerances = dict(rtol=10.0 ** -(3 + i), atol=10.0 ** -(3 + i))
        condition = np.full(2, float(i), np.float32)
        if verb == "sample":
            return frx.sample(model, jax.random.key(i), 4, condition=condition, **tolerances).x
        return frx.log_prob(model, np.full((4, 2), i, np.float32), condition=condition, **tolerances).value

    first = call(0)
    traced = len(counter)
    assert traced > 0
    second = call(1)
    assert len(counter) == traced
    assert not np.allclose(first, second)


def law(dtype):
    covariance = np.array([[1.0, 0.4], [0.4, 0.5]], dtype)
    return frx.oracle.Gaussian(np.zeros(2, dtype), covariance).model(frx.Cosine())


@pytest.mark.accuracy
def test_jit_and_vmap_over_keys(x64):
    """Inside `jit` the same draws; over three keys, each the draws of its own key."""
    model, keys = law(np.float64), jax.random.split(KEY, 3)
    draw = functools.partial(frx.sample, model, num_samples=4)
    alone = np.stack([draw(key).x for key in keys])
    jitted = jax.jit(lambda key: draw(key).x)(keys[0])
    mapped = jax.vmap(lambda key: draw(key).x)(keys)
    assert np.allclose(jitted, alone[0], rtol=0, atol=1e-9)
    assert np.allclose(mapped, alone, rtol=0, atol=1e-9)


@pytest.mark.accuracy
def test_batched_conditions_and_vmap_over_them():
    """Row i of a `Batched` condition is the shared condition of a solve of its own."""
    model, x, conditions = numbers(jnp.float32)

    def solve(condition):
        return frx.sample(model, KEY, 3, x0=x, condition=condition, with_log_prob=True)

    batched = solve(frx.Batched(conditions))
    mapped = jax.vmap(lambda c: solve(c).x)(conditions)
    for i in range(3):
        shared = solve(conditions[i])
        assert np.allclose(shared.x[i], batched.x[i], rtol=0, atol=1e-5)
        assert np.allclose(shared.log_prob[i], batched.log_prob[i], rtol=0, atol=1e-4)
        assert np.allclose(mapped[i], shared.x, rtol=0, atol=1e-5)


@pytest.mark.accuracy
@pytest.mark.parametrize("dynamics", [frx.ProbabilityFlow(), frx.ReverseSDE()])
def test_draws_depend_on_key_and_index_alone(dynamics):
    """Not on the number of samples, nor on how many are solved at once."""
    model, options = law(np.float32), dict(dynamics=dynamics, grid=16)
    whole = frx.sample(model, KEY, 7, **options).x
    assert np.allclose(frx.sample(model, KEY, 3, **options).x, whole[:3], rtol=0, atol=1e-5)
    for lanes in (1, 3):
        assert np.allclose(frx.sample(model, KEY, 7, lanes=lanes, **options).x, whole, rtol=0, atol=1e-5)
    assert np.min(np.std(whole, axis=0)) > 0.1


@pytest.mark.accuracy
@pytest.mark.parametrize("wide", [True, False])
def test_runs_in_both_precisions_with_nans_trapped(wide):
    """x64 on or off the answers keep the model's dtype, float32 under x64 too, and nothing on the way is NaN."""
    with jax.enable_x64(wide), jax.debug_nans(True):
        for dtype in (np.float32, np.float64)[: 1 + wide]:
            model = law(dtype)
            samples = frx.sample(model, KEY, 3, with_log_prob=True)
            noisy = frx.sample(model, KEY, 3, dynamics=frx.ReverseSDE(), grid=64)
            answer = frx.log_prob(model, samples.x, key=KEY, divergence=frx.Hutchinson(4))
            for leaf in (samples.x, samples.log_prob, noisy.x, answer.value, answer.standard_error, answer.x0):
                assert leaf.dtype == dtype
            assert np.allclose(samples.log_prob, model.oracle.log_prob(samples.x), rtol=0, atol=1e-3)


@pytest.mark.accuracy
def test_gradients_with_nans_trapped():
    """The standard error of equal estimates has no slope, and no NaN either."""
    model = frx.oracle.Gaussian(np.zeros(2, np.float32), np.eye(2, dtype=np.float32)).model(frx.Linear())

    def value(x):
        answer = frx.log_prob(model, x, key=KEY, divergence=frx.Hutchinson(4), grid=8)
        return jnp.sum(answer.value + answer.standard_error)

    x = jnp.asarray([[0.3, -1.0]])
    with jax.debug_nans(True):
        assert np.allclose(jax.grad(value)(x), -x, rtol=0, atol=1e-3)
