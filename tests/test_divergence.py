"""Trace estimators against traces in closed form, their errors against their own spread, alone and in a solve."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowrax as frx
from flowrax.divergence import GaussianProbes, Hadamard, Rademacher, Sphere
from flowrax.divergence.low_rank import orthonormal_basis

RANDOM = {
    "rademacher": frx.Hutchinson(12, Rademacher()),
    "gaussian": frx.Hutchinson(12, GaussianProbes()),
    "sphere": frx.Hutchinson(12, Sphere()),
    "hadamard": frx.Hutchinson(12, Hadamard()),
    "hutch++": frx.divergence.HutchPP(12),
    "xtrace": frx.divergence.XTrace(12),
}


def problem(shape, seed=0):
    """A field with a full, non-symmetric Jacobian of decaying spectrum, a point, and the trace on paper."""
    size = int(np.prod(shape))
    left, right = (np.random.default_rng(seed + k).normal(size=(size, size)) / size**0.5 for k in (0, 1))
    matrix = jnp.asarray(left @ np.diag(4 * np.exp(-np.arange(size) / 2)) @ right + 0.3 * left)
    x = jnp.asarray(np.random.default_rng(seed + 2).normal(size=shape))

    def field(x):
        return (matrix @ x.reshape(-1)).reshape(shape) + x * jnp.sum(jnp.sin(x))

    trace = np.trace(matrix) + size * np.sum(np.sin(x)) + np.sum(x * np.cos(x))
    return field, x, float(trace)


def estimates(divergence, field, x, key):
    return jax.jit(lambda x, key: divergence(field, x, divergence.probes(key, x))[1])(x, key)


def spread(divergence, field, x, num, key):
    """Estimates and standard errors by `num` independent draws of the probes."""

    def one(key):
        several = estimates(divergence, field, x, key)
        return jnp.mean(several), divergence.standard_error(several)

    return [np.asarray(a) for a in jax.jit(jax.vmap(one))(jax.random.split(key, num))]


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        *((name, (21,)) for name in RANDOM),
        ("rademacher", (3, 8)),
        ("hadamard", (20,)),
        ("hutch++", (3, 8)),
        ("xtrace", (20,)),
    ],
)
def test_unbiased(name, shape, x64):
    """The mean of 4,000 draws within 4 of its own standard errors; sizes that are no power of two included."""
    field, x, trace = problem(shape)
    values, _ = spread(RANDOM[name], field, x, 4000, jax.random.key(1))
    assert abs(values.mean() - trace) <= 4 * values.std() / 4000**0.5
    assert values.std() > 0.1


@pytest.mark.parametrize(
    ("divergence", "size"),
    [
        (frx.divergence.HutchPP(12), 12),
        (frx.divergence.HutchPP(12), 2),
        (frx.divergence.XTrace(12), 12),
        (frx.divergence.XTrace(12), 1),
        (frx.Hutchinson(8, Hadamard()), 8),
        (frx.Hutchinson(8, Hadamard()), 5),
    ],
)
def test_exact_with_as_many_products_as_dimensions(divergence, size, x64):
    field, x, trace = problem((size,))
    several = estimates(divergence, field, x, jax.random.key(0))
    assert float(jnp.mean(several)) == pytest.approx(trace, rel=1e-12)
    assert float(divergence.standard_error(several)) <= 1e-12


@pytest.mark.parametrize("divergence", [frx.divergence.HutchPP(9), frx.divergence.XTrace(8)])
@pytest.mark.parametrize("rank", [0, 1, 2])
def test_exact_on_low_rank(divergence, rank, x64):
    """Non-symmetric of rank below that of the sketch; of rank zero too."""
    left, right = (np.random.default_rng(k).normal(size=(20, rank)) for k in (0, 1))
    matrix = jnp.asarray(left @ right.T)
    several = estimates(divergence, lambda x: matrix @ x, jnp.ones(20), jax.random.key(0))
    assert np.allclose(several, np.trace(left @ right.T), rtol=0, atol=1e-10)


@pytest.mark.accuracy
@pytest.mark.parametrize("divergence", [frx.divergence.HutchPP(9), frx.divergence.XTrace(8)])
@pytest.mark.parametrize("scale", [1.0, 1e-12])
def test_parallel_probes(divergence, scale, x64):
    """Probes that repeat one another, at any scale of the field: the estimate that fewer of them give."""
    field, x, trace = problem((20,))
    probes = divergence.probes(jax.random.key(0), x)
    probes = probes.at[1].set(-2 * probes[0])

    def estimate(scale):
        return jnp.mean(divergence(lambda x: scale * field(x), x, probes)[1])

    value, slope = jax.jit(jax.value_and_grad(estimate))(jnp.asarray(scale))
    assert float(slope) == pytest.approx(float(value) / scale, rel=1e-6)
    assert abs(float(value) / scale - trace) <= 15


@pytest.mark.parametrize("columns", ["full", "dependent"])
def test_basis(columns, x64):
    """Orthonormal, of the same range, Y T = Q; and its derivative by central differences."""
    matrix = np.random.default_rng(0).normal(size=(9, 4))
    if columns == "dependent":
        matrix[:, 2] = matrix[:, 0] - 3 * matrix[:, 1]
    compiled = jax.jit(orthonormal_basis)
    basis, factor = compiled(jnp.asarray(matrix))
    kept = [0, 1, 3] if columns == "dependent" else [0, 1, 2, 3]
    assert np.allclose(basis.T @ basis, np.diag([k in kept for k in range(4)]), rtol=0, atol=1e-14)
    assert np.allclose(basis @ (basis.T @ matrix), matrix, rtol=0, atol=1e-13)
    assert np.allclose((matrix @ factor)[:, kept], basis[:, kept], rtol=0, atol=1e-13)
    if columns == "full":
        change = jnp.asarray(np.random.default_rng(1).normal(size=matrix.shape))
        _, slopes = jax.jit(lambda *pair: jax.jvp(orthonormal_basis, *pair))((jnp.asarray(matrix),), (change,))
        ahead, behind = (compiled(matrix + h * change) for h in (1e-6, -1e-6))
        for slope, a, b in zip(slopes, ahead, behind, strict=True):
            assert np.allclose(slope, (a - b) / 2e-6, rtol=0, atol=1e-7)


@pytest.mark.accuracy
def test_hadamard_probes_are_orthogonal_rows():
    """Signs; all N rows of them have covariance exactly one, also where the event is shorter than a row."""
    for size, order in ((8, 8), (5, 8), (1, 1), (784, 1024)):
        draw = jax.jit(functools.partial(Hadamard(), shape=(order, size), dtype=jnp.float32))
        probes = np.asarray(draw(jax.random.key(0)))
        assert np.array_equal(np.abs(probes), np.ones((order, size)))
        assert np.array_equal(probes.T @ probes, order * np.eye(size))


@pytest.mark.accuracy
@pytest.mark.parametrize(
    "divergence",
    [
        frx.Hutchinson(24, Rademacher()),
        frx.Hutchinson(24, Sphere()),
        frx.Hutchinson(24, Hadamard()),
        frx.Hutchinson(48, Hadamard()),
        frx.divergence.HutchPP(72),
        frx.divergence.XTrace(48),
    ],
)
def test_standard_errors_are_calibrated(divergence):
    """z-scores of 1,000 draws of 24 estimates: Student's t with 23 degrees has variance 1.10, known to 0.05."""
    matrix = np.random.default_rng(0).normal(size=(96, 96)).astype(np.float32) / 10
    matrix, x = jnp.asarray(matrix), jnp.ones(96)
    values, errors = spread(divergence, lambda x: matrix @ x, x, 1000, jax.random.key(2))
    z = (values - np.trace(matrix)) / errors
    assert 0.85 <= np.var(z) <= 1.3
    assert abs(np.mean(z)) <= 5 / 1000**0.5


def test_hadamard_rows_beat_independent_signs():
    """Drawn without replacement, 48 of 64 rows have a quarter of the variance of independent signs, known to 5%."""
    matrix = jnp.asarray(np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32))
    plain, hadamard = (
        spread(frx.Hutchinson(48, law), lambda x: matrix @ x, jnp.ones(64), 1000, jax.random.key(3))[0]
        for law in (Rademacher(), Hadamard())
    )
    assert 0.2 <= np.var(hadamard) / np.var(plain) <= 0.3


@functools.cache
def smooth_model():
    """A velocity whose Jacobian is full and changes in time and space."""
    matrix = np.random.default_rng(0).normal(size=(14, 14)) / 14**0.5
    return frx.Model(lambda t, x, c: 2 * jnp.tanh(matrix @ x + 2 * t), frx.Linear(), shape=(14,), dtype=jnp.float64)


def steps_and_values(divergence):
    model = smooth_model()
    x = 2 * jax.random.normal(jax.random.key(1), (4, 14))
    answer = frx.log_prob(model, x, key=jax.random.key(2), divergence=divergence, rtol=1e-4, atol=1e-4)
    return np.asarray(answer.stats.num_steps), answer


@pytest.mark.accuracy
def test_adaptive_steps_stay_as_many(x64):
    """The bases of a sketch follow the Jacobian smoothly: the solve takes about the steps of the exact one."""
    exact, want = steps_and_values(frx.Exact())
    for divergence in (frx.divergence.HutchPP(9), frx.divergence.XTrace(8), frx.Hutchinson(8, Hadamard())):
        steps, got = steps_and_values(divergence)
        assert np.all(steps <= 2 * exact)
        assert np.all(np.abs(got.value - want.value) <= 8 * got.standard_error)


@pytest.mark.accuracy
@pytest.mark.parametrize("divergence", [frx.Exact(2), *list(RANDOM.values())[3:]], ids=lambda d: type(d).__name__)
def test_gradients(divergence, x64):
    """Along a random direction in x, against central differences of the same discrete solve."""
    model = smooth_model()
    x, way = (jax.random.normal(jax.random.key(k), (1, 14), "float64") for k in (1, 2))

    def value(h):
        answer = frx.log_prob(model, x + h * way, key=jax.random.key(3), divergence=divergence, grid=3)
        return answer.value[0]

    both, step = jax.jit(jax.value_and_grad(value)), 1e-5
    (plus, _), (minus, _), (_, got) = (both(jnp.asarray(h)) for h in (step, -step, 0.0))
    assert float(got) == pytest.approx(float((plus - minus) / (2 * step)), rel=1e-5)


@pytest.mark.parametrize(
    ("event", "budget", "width"), [((2,), 4096, 2), ((64,), 4096, 16), ((784,), 4096, 4), ((784,), 10**9, 784)]
)
def test_chunks_fit_the_budget(event, budget, width):
    assert frx.Exact(memory_budget=budget).width(jnp.zeros(event, jnp.float32)) == width
    assert width == 4 or width * 4 * np.prod(event) <= budget
