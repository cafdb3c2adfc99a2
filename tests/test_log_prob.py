"""`log_prob` against closed forms; random divergences against their own sampling distribution."""

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowrax as frx
from flowrax.divergence import GaussianProbes, Rademacher
from laws import SCHEDULES, covariances, mixture
from test_sample import BARS, double, marginal_log_prob


def points(oracle, schedule, n, key):
    """Draws of the law at t = 1, which keeps a little noise under VE and EDM."""
    noise = jax.random.normal(key, (n, *oracle.shape), oracle.dtype)
    return oracle.sample(jax.random.fold_in(key, 1), (n,)) + schedule.sigma(1.0).astype(oracle.dtype) * noise


def value_error(num, size, rows, name, precision):
    """The worst error of the log-densities of some rows, by a mixture of `num` Gaussians."""
    tolerance, _ = BARS[precision]
    oracle, schedule = mixture(num, size, precision), SCHEDULES[name]
    x = points(oracle, schedule, rows, jax.random.key(7))
    answer = frx.log_prob(oracle.model(schedule), x, rtol=tolerance, atol=tolerance)
    assert np.all(answer.standard_error == 0)
    with jax.enable_x64(True):
        want = marginal_log_prob(double(oracle), schedule, np.asarray(x, np.float64))
    return np.max(np.abs(np.asarray(answer.value, np.float64) - np.asarray(want)))


@pytest.mark.accuracy
@pytest.mark.parametrize(("name", "precision"), [*((name, "float32") for name in SCHEDULES), ("linear", "float64")])
def test_value(name, precision):
    """The other schedules have their double precision in more dimensions, below."""
    with jax.enable_x64(precision == "float64"):
        error = value_error(25, 2, 250, name, precision)
    assert error <= BARS[precision][1]


@pytest.mark.accuracy
@pytest.mark.parametrize(("name", "precision"), [*((name, "float64") for name in SCHEDULES), ("edm", "float32")])
def test_value_in_16_dimensions(name, precision):
    """The worst of fewer rows is smaller, and so is what is allowed; seen are 4.1e-6 and 3.3e-4."""
    with jax.enable_x64(precision == "float64"):
        error = value_error(5, 16, 50, name, precision)
    assert error <= {"float64": 1e-5, "float32": 2e-3}[precision]


@pytest.fixture(scope="module")
def correlated():
    """A mixture with full covariances in six dimensions, points of it, and their exact values."""
    model = mixture(5, 6, "float32").model(frx.Linear())
    x = model.oracle.sample(jax.random.key(11), (1000,))
    return model, x, frx.log_prob(model, x, grid=12)


@pytest.mark.accuracy
@pytest.mark.parametrize("law", [Rademacher(), GaussianProbes()])
def test_hutchinson_standard_errors_are_right(law, correlated):
    """z-scores of 1,000 estimates by 32 probes are nearly Student's t with 31 degrees of freedom.

    Its variance is 31 / 29 = 1.07, which 1,000 of them estimate to 0.05; 0.4 of 1,000 lie beyond 4.
    """
    model, x, exact = correlated
    answer = frx.log_prob(model, x, key=jax.random.key(0), divergence=frx.Hutchinson(32, law), grid=12)
    z = np.asarray((answer.value - exact.value) / answer.standard_error)
    assert np.sum(np.abs(z) > 4) <= 4
    assert 0.85 <= np.var(z) <= 1.25
    assert abs(np.mean(z)) <= 5 / 1000**0.5
    # The noise of the probes is what is measured, far above the solver's.
    assert np.median(answer.standard_error) > 0.03


@pytest.mark.accuracy
def test_hutchinson_in_sample(correlated):
    """The density carried along a draw, against the exact one of the same draw."""
    model, _, _ = correlated
    key = jax.random.key(3)
    got = frx.sample(model, key, 200, with_log_prob=True, divergence=frx.Hutchinson(16))
    want = frx.sample(model, key, 200, with_log_prob=True)
    assert np.allclose(got.x, want.x, rtol=0, atol=5e-3)
    z = np.asarray((got.log_prob - want.log_prob) / got.standard_error)
    # Student's t with 15 degrees of freedom: its variance is 1.15, known to 0.13 from 200.
    assert 0.65 <= np.var(z) <= 1.65


@pytest.fixture(scope="module")
def diagonal():
    return frx.oracle.Gaussian(np.float32([0.5, -1.0]), np.diag(np.float32([1.0, 0.25]))).model(frx.Linear())


@pytest.mark.accuracy
def test_rademacher_probes_are_exact_on_a_diagonal_jacobian(diagonal):
    x = diagonal.oracle.sample(jax.random.key(0), (50,))
    answer = frx.log_prob(diagonal, x, key=jax.random.key(1), divergence=frx.Hutchinson(8))
    assert np.array_equal(answer.standard_error, np.zeros(50))
    assert np.allclose(answer.value, diagonal.oracle.log_prob(x), rtol=0, atol=1e-2)


def test_one_probe_has_no_error_estimate(diagonal):
    x = diagonal.oracle.sample(jax.random.key(0), (3,))
    answer = frx.log_prob(diagonal, x, key=jax.random.key(1), divergence=frx.Hutchinson(1, GaussianProbes()))
    assert np.all(np.isposinf(answer.standard_error))


def test_standard_error_is_that_of_a_mean():
    """numpy's, and without a NaN in the gradient where the spread is zero."""
    estimates = jax.random.normal(jax.random.key(0), (5, 7))
    got = frx.Hutchinson(7).standard_error(estimates)
    assert np.allclose(got, np.std(estimates, axis=1, ddof=1) / 7**0.5, rtol=1e-5)
    assert np.array_equal(jax.grad(frx.Hutchinson(4).standard_error)(jnp.ones(4)), np.zeros(4))


def swirl(x):
    """A field of `(2, 3)` events whose Jacobian is full, and its divergence by differentiation on paper."""
    total = jnp.sum(jnp.sin(x))
    return x * total, 6 * total + jnp.sum(x * jnp.cos(x))


@pytest.mark.parametrize("chunk_size", [1, 4, 6, 16])
def test_exact_divergence_in_any_chunks(chunk_size, x64):
    x = jax.random.normal(jax.random.key(0), (2, 3))
    value, divergence = jax.jit(lambda x: frx.Exact(chunk_size)(lambda x: swirl(x)[0], x, None))(x)
    assert np.allclose(value, swirl(x)[0], rtol=1e-14)
    assert float(divergence[0]) == pytest.approx(float(swirl(x)[1]), rel=1e-13)


@pytest.mark.parametrize("law", [Rademacher(), GaussianProbes()])
def test_hutchinson_is_unbiased(law, x64):
    """The mean of 20,000 estimates within 5 of its own standard errors."""
    divergence, x = frx.Hutchinson(20_000, law), jax.random.normal(jax.random.key(0), (2, 3))
    _, estimates = divergence(lambda x: swirl(x)[0], x, divergence.probes(jax.random.key(1), x))
    error = float(jnp.mean(estimates) - swirl(x)[1])
    assert abs(error) <= 5 * float(divergence.standard_error(estimates))


@pytest.mark.accuracy
def test_latent_is_where_the_flow_comes_from(x64):
    """The closed-form flow takes each row's latent to the row, and `sample` from it gives row and value back."""
    covariance = covariances(jax.random.key(2), 1, 3, jnp.float64)[0]
    model = frx.oracle.Gaussian(jnp.arange(3.0), covariance).model(frx.Cosine())
    x = model.oracle.sample(jax.random.key(0), (20,))
    back = frx.log_prob(model, x, rtol=1e-9, atol=1e-9)
    assert np.allclose(model.oracle.flow(model.schedule, 0.0, 1.0, back.x0), x, rtol=0, atol=1e-6)
    forth = frx.sample(model, jax.random.key(0), 20, x0=back.x0, with_log_prob=True, rtol=1e-9, atol=1e-9)
    assert np.allclose(forth.x, x, rtol=0, atol=1e-6)
    assert np.allclose(forth.log_prob, back.value, rtol=0, atol=1e-6)


@pytest.mark.accuracy
def test_a_row_does_not_depend_on_its_batch(correlated):
    """Its probes come from its index alone: alone, in a batch, and a few at a time."""
    model, x, _ = correlated
    divergence, key = frx.Hutchinson(4), jax.random.key(0)
    whole = frx.log_prob(model, x[:7], key=key, divergence=divergence)
    first = frx.log_prob(model, x[:2], key=key, divergence=divergence)
    lanes = frx.log_prob(model, x[:7], key=key, divergence=divergence, lanes=3)
    assert np.allclose(whole.value[:2], first.value, rtol=0, atol=1e-4)
    assert np.allclose(whole.value, lanes.value, rtol=0, atol=1e-4)
    assert np.allclose(whole.standard_error, lanes.standard_error, rtol=0, atol=1e-4)


@pytest.mark.accuracy
@pytest.mark.parametrize("adjoint", [None, dfx.BacksolveAdjoint(), dfx.DirectAdjoint()])
def test_gradient_in_the_point_is_the_score(adjoint, x64):
    model = frx.oracle.Gaussian(np.zeros(2), 0.5 * np.eye(2)).model(frx.Linear())
    x = jnp.asarray([[1.0, -2.0]])
    options = dict(rtol=1e-8, atol=1e-8, adjoint=adjoint, max_steps=64 if adjoint is not None else 4096)
    gradient = jax.jit(jax.grad(lambda x: frx.log_prob(model, x, **options).value[0]))(x)
    np.testing.assert_allclose(gradient, -x / 0.5, rtol=1e-6)
