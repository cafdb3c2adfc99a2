"""Exact divergences at the ends of steps beside random ones within: unbiased, nearly free of noise, and honest."""

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowrax as frx
from flowrax.divergence import Hadamard
from flowrax.stepper import Trapezoidal
from laws import mixture

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def correlated():
    """A mixture in six dimensions, and points of it."""
    model = mixture(5, 6, "float32").model(frx.Linear())
    return model, model.oracle.sample(jax.random.key(11), (200,))


# Each number of steps and each divergence compiles, so that those who can have the same.
STEPS = 12


def estimates(model, x, divergence, num_keys, grid=STEPS):
    """Answers by key."""
    return [frx.log_prob(model, x, key=jax.random.key(k), divergence=divergence, grid=grid) for k in range(num_keys)]


@pytest.fixture(scope="module")
def exact(correlated):
    """By the exact divergence on the same grid."""
    return frx.log_prob(*correlated, grid=STEPS)


def noise(answers, exact):
    """What probes add to the log-densities of the exact divergence on the same grid, by key and row."""
    return np.stack([answer.value - exact.value for answer in answers])


@pytest.mark.accuracy
@pytest.mark.parametrize("inner", [dfx.Heun(), dfx.Dopri5()])
def test_second_term_is_integrated_to_second_order(inner, x64):
    """y' = cos t from stages and 3 t^2 from the ends of steps, in both directions of time."""
    terms = dfx.MultiTerm(
        dfx.ODETerm(lambda t, y, args: jnp.stack([jnp.cos(t), jnp.cos(t)])),
        dfx.ODETerm(lambda t, y, args: jnp.stack([jnp.zeros_like(t), 3 * t**2])),
    )

    @jax.jit
    def end(t0, t1, num_steps):
        y0 = jnp.stack([jnp.sin(t0), jnp.sin(t0) + t0**3])
        return dfx.diffeqsolve(terms, Trapezoidal(inner), t0, t1, (t1 - t0) / num_steps, y0).ys[0]

    for t0, t1 in ((0.0, 1.0), (1.0, 0.0)):
        ends = [end(*map(jnp.asarray, (t0, t1, n))) for n in (8.0, 16.0)]
        errors = [np.asarray(end - jnp.asarray([jnp.sin(t1), jnp.sin(t1) + t1**3])) for end in ends]
        own, both = (np.log2(errors[0][i] / errors[1][i]) for i in (0, 1))
        assert inner.order(None) - 0.15 <= own <= inner.order(None) + 1.15
        assert both == pytest.approx(2, abs=0.15)
        # The trapezoidal rule on 3 t^2 is off by h^2 / 2, towards the end.
        added = errors[1][1] - errors[1][0]
        assert added == pytest.approx(np.sign(t1 - t0) * 0.5 / 16**2, rel=1e-6)


@pytest.mark.accuracy
def test_takes_nearly_all_noise_and_adds_no_bias(correlated, exact):
    """Against plain probes; the mean of 8 keys x 200 rows within 4 standard errors of the exact solve's."""
    plain = noise(estimates(*correlated, frx.Hutchinson(2), 8), exact)
    answers = estimates(*correlated, frx.ControlVariate(frx.Hutchinson(2)), 8)
    left = noise(answers, exact)
    assert np.std(left) < np.std(plain) / 8
    assert abs(left.mean()) <= 4 * left.mean(axis=0).std() / 200**0.5
    # One evaluation a step beside those of the solver.
    assert np.all(answers[0].stats.num_evaluations == exact.stats.num_evaluations + STEPS)


@pytest.mark.accuracy
def test_noise_falls_as_the_square_of_the_steps(correlated):
    """The spread over 5 keys of each of 200 rows: 800 degrees of freedom leave a standard error of 0.05 at most."""
    divergence, spreads = frx.ControlVariate(frx.Hutchinson(2)), []
    for steps in (32, 64):
        values = np.stack([answer.value for answer in estimates(*correlated, divergence, 5, steps)])
        spreads.append(np.mean(np.var(values, axis=0, ddof=1)) ** 0.5)
    assert np.log2(spreads[0] / spreads[1]) == pytest.approx(2, abs=0.3)


@pytest.mark.accuracy
@pytest.mark.parametrize("inner", [frx.Hutchinson(8), frx.Hutchinson(4, Hadamard())], ids=["signs", "rows"])
def test_standard_errors_are_those_of_what_is_left(correlated, exact, inner):
    """The median size of z-scores: that of Student's t is 0.71 with 7 degrees of freedom and 0.76 with 3."""
    answers = estimates(*correlated, frx.ControlVariate(inner), 4)
    z = np.abs(noise(answers, exact)) / np.stack([a.standard_error for a in answers])
    assert 0.6 <= np.median(z) <= 0.95


@pytest.mark.accuracy
def test_adaptive_steps_lanes_and_sampling(x64):
    """Steps of its own for each row, whoever shares its lane; `sample` finds the same densities as `log_prob`."""
    model = mixture(5, 6, "float64").model(frx.Linear())
    x = model.oracle.sample(jax.random.key(11), (50,))
    divergence = frx.ControlVariate(frx.Hutchinson(2))
    whole = frx.log_prob(model, x, key=KEY, divergence=divergence, rtol=1e-4, atol=1e-4)
    few = frx.log_prob(model, x, key=KEY, divergence=divergence, rtol=1e-4, atol=1e-4, lanes=7)
    exact = frx.log_prob(model, x)
    assert np.array_equal(whole.stats.num_steps, few.stats.num_steps)
    assert np.allclose(whole.value, few.value, rtol=0, atol=1e-7)
    assert np.sqrt(np.mean((whole.value - exact.value) ** 2)) < 0.05
    drawn = frx.sample(model, KEY, 50, with_log_prob=True, divergence=divergence)
    again = frx.log_prob(model, drawn.x)
    assert np.sqrt(np.mean((drawn.log_prob - again.value) ** 2)) < 0.05


@pytest.mark.accuracy
@pytest.mark.parametrize("adjoint", [None, dfx.RecursiveCheckpointAdjoint()], ids=["replay", "checkpoint"])
def test_gradient(adjoint, x64):
    """Along a random direction in x, against central differences of the same discrete solve."""
    matrix = np.random.default_rng(0).normal(size=(5, 5))
    model = frx.Model(lambda t, x, c: jnp.tanh(matrix @ x + t), frx.Linear(), shape=(5,), dtype=jnp.float64)
    x, way = (jax.random.normal(jax.random.key(k), (1, 5), "float64") for k in (1, 2))
    divergence = frx.ControlVariate(frx.Hutchinson(2))

    def value(h):
        return frx.log_prob(model, x + h * way, key=KEY, divergence=divergence, grid=4, adjoint=adjoint).value[0]

    both, step = jax.jit(jax.value_and_grad(value)), 1e-5
    (plus, _), (minus, _), (_, got) = (both(jnp.asarray(h)) for h in (step, -step, 0.0))
    assert float(got) == pytest.approx(float((plus - minus) / (2 * step)), rel=1e-5)


@pytest.mark.accuracy
def test_probes_are_added_until_the_target_is_met(correlated):
    model, x = correlated
    divergence = frx.ControlVariate(frx.Hutchinson(8))
    plain = frx.log_prob(model, x, key=KEY, divergence=divergence, grid=STEPS)
    target = float(np.median(plain.standard_error))
    options = dict(target_standard_error=target, max_probes=64)
    answer = frx.log_prob(model, x, key=KEY, divergence=divergence, grid=STEPS, **options)
    assert set(np.asarray(answer.num_probes)) >= {8, 16}
    assert np.all((answer.standard_error <= target) | (answer.num_probes == 64))


def test_what_has_no_noise_is_refused():
    with pytest.raises(ValueError, match="needs a random divergence, .*; got Exact"):
        frx.ControlVariate(frx.Exact())
    with pytest.raises(ValueError, match="needs a random divergence, .*; got ControlVariate"):
        frx.ControlVariate(frx.ControlVariate(frx.Hutchinson()))
