"""Draws of classes by inversion and the number at a class, against plain loops; schedules of masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowrax as frx
from flowrax.discrete import (
    AveragedJoint,
    AveragedPosterior,
    Mixture,
    Ordinal,
    at_class,
    data_probabilities,
    data_weights,
    invert,
    log_tempered,
)

RATES = frx.schedule.DiscreteSchedule(np.linspace(0.1, 0.8, 7))
TABLE = frx.discrete.TabulatedMasking(RATES)


@pytest.mark.parametrize("classes", [1, 2, 7, 64, 65, 81, 1000])
def test_a_level_finds_its_class(classes, x64):
    """With a third of the classes impossible, and numbers of classes that fill their blocks or do not."""
    rng = np.random.default_rng(classes)
    weights = rng.exponential(size=(50, classes)) * (rng.random((50, classes)) > 1 / 3)
    weights[:, rng.integers(classes)] = 1.0
    level = rng.random(50)
    sums = np.cumsum(weights, axis=1)
    want = [np.searchsorted(s, u * s[-1], side="right") for s, u in zip(sums, level, strict=True)]
    assert np.array_equal(invert(jnp.asarray(level), jnp.asarray(weights)), want)


@pytest.mark.parametrize("classes", [5, 100])
def test_a_class_of_no_weight_is_never_found(classes):
    """However the sums round: in single precision, at all levels where they might, the ends included."""
    rng = np.random.default_rng(0)
    weights = np.float32(rng.exponential(size=(20_000, classes)) ** 8 * (rng.random((20_000, classes)) > 0.6))
    weights[:, classes // 2] = 1.0
    for side in (0.0, 1.0, np.inf):
        sums = np.cumsum(weights, axis=1, dtype=np.float32)
        level = sums[:, classes // 3] / sums[:, -1]
        level = np.clip(np.nextafter(level, np.float32(side)), 0, np.nextafter(np.float32(1), np.float32(0)))
        found = np.asarray(invert(jnp.asarray(level if side else 0 * level), jnp.asarray(weights)))
        assert np.all(np.take_along_axis(weights, found[:, None], 1) > 0)
    last = np.asarray(invert(jnp.full(20_000, np.nextafter(np.float32(1), np.float32(0))), jnp.asarray(weights)))
    assert np.all(np.take_along_axis(weights, last[:, None], 1) > 0)


@pytest.mark.parametrize("classes", [5, 100])
def test_no_law_has_no_class(classes):
    bad = np.ones((4, classes), np.float32)
    bad[0], bad[1, 2], bad[2, 3] = 0, np.nan, np.inf
    assert np.array_equal(np.asarray(invert(jnp.full(4, 0.5), jnp.asarray(bad))) < 0, [True, True, True, False])


def test_the_number_at_a_class_and_its_derivatives(x64):
    rng = np.random.default_rng(0)
    values, x = jnp.asarray(rng.standard_normal((3, 2, 5))), jnp.asarray(rng.integers(0, 5, (3, 2)), jnp.int32)
    here = np.arange(5) == np.asarray(x)[..., None]
    np.testing.assert_array_equal(at_class(values, x), np.asarray(values)[here].reshape(3, 2))
    with_infinity = jnp.where(jnp.asarray(here), values, -jnp.inf)
    for start in (values, with_infinity):
        slope = jax.grad(lambda v: jnp.sum(at_class(v, x) ** 2))(start)
        np.testing.assert_array_equal(slope, np.where(here, 2 * np.asarray(values), 0))
    rows = jax.vmap(lambda v, x: at_class(v, x))(values, x)
    np.testing.assert_array_equal(rows, at_class(values, x))
    second = jax.jacfwd(jax.grad(lambda v: jnp.sum(at_class(v, x[0, 0]) ** 3)))(values[0, 0])
    np.testing.assert_allclose(second, np.diag(6 * np.asarray(values)[0, 0] * here[0, 0]), rtol=1e-14)


@pytest.mark.parametrize("temperature", [1.0, 0.5, 0.0, "traced"])
@pytest.mark.parametrize("kind", ["masked", "uniform"])
def test_probabilities_to_draw_by_are_those_of_the_logarithms(kind, temperature, x64):
    """Whatever the size of the logits, that of the mask included."""
    rng = np.random.default_rng(0)
    prior = {"masked": frx.discrete.Masked((7,), 5, 2), "uniform": frx.discrete.UniformCategorical((7,), 5)}[kind]
    logits = rng.standard_normal((7, 5)) * 10.0 ** np.arange(-3, 4)[:, None]
    logits[:3, 2], logits[4, 1] = 1e4, -np.inf
    model = frx.CategoricalModel(lambda t, x, _: jnp.asarray(logits), frx.discrete.LogLinearMasking(), prior=prior)
    temperature = jnp.asarray(0.7) if temperature == "traced" else temperature
    for x in (jnp.full(7, 2), jnp.asarray([0, 2, 4, 2, 2, 3, 1])):
        want = jnp.exp(log_tempered(model.log_probabilities(0.5, x), temperature))
        assert np.allclose(data_probabilities(model, 0.5, x, temperature=temperature), want, rtol=1e-12, atol=0)
        weights = data_weights(model, 0.5, x, temperature=temperature)
        assert np.all(np.max(weights, axis=1) <= 1) and np.all(np.max(weights, axis=1) >= 1 / 5)
        assert np.allclose(weights / weights.sum(1, keepdims=True), want, rtol=1e-12, atol=0)


@pytest.mark.parametrize("reverse", [AveragedPosterior(), AveragedJoint()], ids=["posterior", "joint"])
@pytest.mark.parametrize("path", [Mixture(TABLE), Ordinal(RATES, 4)], ids=["mixture", "ordinal"])
def test_a_factor_of_the_law_of_the_data_is_one_of_the_step(path, reverse, x64):
    """Which is what samplers draw by: weights that do not sum to one."""
    prior, s, t = frx.discrete.UniformCategorical((3,), 4), jnp.asarray(3 / 7), jnp.asarray(4 / 7)
    p1, factor = np.random.default_rng(0).dirichlet(np.ones(4), size=3), np.array([[1e-3], [1.0], [40.0]])
    x = jnp.asarray([3, 0, 1])
    law, weights = (np.asarray(reverse(path, prior, s, t, x, jnp.asarray(p))) for p in (p1, factor * p1))
    np.testing.assert_allclose(law.sum(1), 1, rtol=1e-12)
    np.testing.assert_allclose(weights / weights.sum(1, keepdims=True), law, rtol=1e-12)


@pytest.mark.parametrize("schedule", [TABLE, frx.discrete.PolynomialMasking(3.0), frx.discrete.PolynomialMasking(1.5)])
def test_masking_schedules(schedule, x64):
    t = np.append(np.random.default_rng(0).uniform(size=20), 1 - 2.0**-40)

    @jax.jit
    def values(t):
        alpha = schedule.alpha(t)
        rates = jax.vmap(jax.grad(schedule.alpha))(t), schedule.alpha_rate(t)
        return alpha, rates, schedule.time_at(alpha), schedule.mask_probability(t)

    alpha, (gradient, rate), again, lost = jax.tree.map(np.asarray, values(t))
    np.testing.assert_allclose(gradient[:-1], rate[:-1], rtol=1e-12)
    np.testing.assert_allclose(again[:-1], t[:-1], rtol=1e-12)
    np.testing.assert_allclose(lost, 1 - alpha, atol=1e-15)
    end = lost[-1] / rate[-1]
    np.testing.assert_allclose(end, 2.0**-40, rtol=1e-10)
    assert np.isclose(schedule.alpha(0.0), schedule.eps, rtol=1e-12)
