"""Likelihoods of measurements against scipy, correlated noise, rows of values, and what they refuse."""

import diffrax as dfx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
from scipy import stats

import flowrax as frx
from flowrax import observation as obs

X = np.array([0.4, -1.3, 2.0])
Y, SCALE = np.array([0.5, -1.0, 0.3]), np.array([0.2, 0.5, 1.5])
COUNTS = np.array([0, 2, 7])
ROOT = np.array([[0.5, 0.0, 0.0], [0.3, 0.4, 0.0], [-0.2, 0.1, 0.6]])
COVARIANCE = ROOT @ ROOT.T
MATRIX = np.array([[1.0, 0.5, 0.0], [0.0, -1.0, 0.7], [0.3, 0.0, 2.0]])
OPERATORS = {
    "matrix": MATRIX,
    "lineax": lx.MatrixLinearOperator(jnp.asarray(MATRIX, jnp.float32)),
    "function": obs.linear_function(lambda x: jnp.asarray(MATRIX, x.dtype) @ x, (3,)),
}

CASES = {
    "nonlinear": (frx.NonlinearGaussian(jnp.sin, Y, SCALE), stats.norm.logpdf(Y, np.sin(X), SCALE)),
    "correlated": (
        frx.NonlinearGaussian(jnp.sin, Y, noise_covariance=COVARIANCE),
        stats.multivariate_normal.logpdf(Y, np.sin(X), COVARIANCE),
    ),
    "counts": (frx.Poisson(jnp.exp, COUNTS), stats.poisson.logpmf(COUNTS, np.exp(X))),
    "laplace": (obs.Laplace(jnp.sin, Y, SCALE), stats.laplace.logpdf(Y, np.sin(X), SCALE)),
    "student": (obs.StudentT(jnp.sin, Y, 0.3, 2.5), stats.t.logpdf(Y, 2.5, np.sin(X), 0.3)),
    **{
        name: (frx.LinearGaussian(operator, Y, SCALE), stats.norm.logpdf(Y, MATRIX @ X, SCALE))
        for name, operator in OPERATORS.items()
    },
    **{
        f"{name}, correlated": (
            frx.LinearGaussian(operator, Y, noise_covariance=COVARIANCE),
            stats.multivariate_normal.logpdf(Y, MATRIX @ X, COVARIANCE),
        )
        for name, operator in OPERATORS.items()
    },
}


@pytest.mark.parametrize("name", CASES)
def test_likelihoods(name):
    observation, want = CASES[name]
    observation.check_event((3,))
    np.testing.assert_allclose(observation.log_likelihood(jnp.asarray(X, jnp.float32)), np.sum(want), rtol=2e-5)


@pytest.mark.parametrize("name", OPERATORS)
def test_operator_values_and_noise_agree_however_they_are_given(name):
    """What guidance takes: the matrix, `A x`, and `A^T v`, after a change of coordinates without a volume."""
    observation = CASES[f"{name}, correlated"][0]
    x, v = jnp.asarray(X, jnp.float32), jnp.asarray(Y, jnp.float32)
    matrix = np.asarray(observation.operator)
    np.testing.assert_allclose(observation.apply(x), matrix @ X, rtol=1e-5)
    np.testing.assert_allclose(observation.apply_transpose(v), matrix.T @ Y, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.prod(observation.noise_std), np.linalg.det(ROOT), rtol=1e-5)
    # Whitened: the residual is that of the inverse Cholesky factor.
    np.testing.assert_allclose(observation.residual(x), np.linalg.solve(ROOT, Y - MATRIX @ X), rtol=1e-4)


def test_precision_follows_the_event(x64):
    """Single-precision values under a double-precision event, and the other way round."""
    for dtype in (np.float32, np.float64):
        operator = obs.linear_function(lambda x: x[:2], (3,))
        for a in (MATRIX[:2].astype(dtype), operator):
            given = frx.LinearGaussian(a, Y[:2].astype(dtype), noise_covariance=COVARIANCE[:2, :2].astype(dtype))
            for event in (np.float32, np.float64):
                likelihood = given.log_likelihood(jnp.asarray(X, event))
                assert likelihood.dtype == np.promote_types(dtype, event)


def test_guidance_by_correlated_values():
    """PiGDM is exact for a standard normal prior: the difference of the scores of posterior and prior."""
    oracle, mask = frx.oracle.Gaussian(np.zeros(3), np.eye(3)), obs.Mask([True, False, True])
    y, noise, path = Y[:2], COVARIANCE[:2, :2], frx.Linear()
    posterior = oracle.posterior(np.eye(3)[[0, 2]], y, noise)
    t, x = 0.6, jnp.asarray(X, jnp.float32)
    observation = frx.LinearGaussian(mask, y, noise_covariance=noise)
    _, got = frx.PiGDM()(oracle.model(path), observation, t, x, None)
    want = posterior.model(path).predict(t, x).score - oracle.model(path).predict(t, x).score
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_derivatives_by_values_and_covariance(x64):
    """The score of `y` and the derivative by a factor of the covariance, traced and in closed form."""

    @jax.jit
    @jax.grad
    def score(given):
        observation = frx.LinearGaussian(MATRIX, given["y"], noise_covariance=given["factor"] * COVARIANCE)
        return observation.log_likelihood(jnp.asarray(X))

    got = score({"y": jnp.asarray(Y), "factor": jnp.asarray(1.0)})
    weighted = np.linalg.solve(COVARIANCE, Y - MATRIX @ X)
    np.testing.assert_allclose(got["y"], -weighted, rtol=1e-8)
    np.testing.assert_allclose(got["factor"], 0.5 * (Y - MATRIX @ X) @ weighted - 1.5, rtol=1e-8)


@pytest.mark.accuracy
@pytest.mark.parametrize("name", ["matrix", "function"])
def test_correlated_noise_in_closed_form(name, key):
    """Conjugate reads the operator and the standard deviations, and gets the evidence of the correlated noise."""
    exact = (oracle := frx.oracle.Gaussian(np.zeros(3), np.eye(3))).posterior(MATRIX, Y, COVARIANCE)
    observation, n = CASES[f"{name}, correlated"][0], 4000
    problem = frx.inverse.NoiseProblem(identity, observation.log_likelihood, (3,), jnp.dtype(jnp.float32), observation)
    draws = frx.Conjugate()(problem, key, n)
    np.testing.assert_allclose(draws.log_evidence, oracle.log_evidence(MATRIX, Y, COVARIANCE), rtol=1e-5)
    deviation = np.linalg.solve(np.linalg.cholesky(exact.covariance), np.asarray(draws.x.mean(0) - exact.mean))
    assert n * np.sum(deviation**2) < stats.chi2.isf(1e-4, 3)
    assert np.abs(np.cov(np.asarray(draws.x).T) - np.asarray(exact.covariance)).max() < 4.5 * np.sqrt(2 / n)


@pytest.mark.accuracy
def test_the_posterior_of_a_masked_image_in_closed_form(key):
    """Events of rank 3, measured with correlated noise."""
    kept = np.array([[[True, False, False], [False, False, True]]])
    root = np.random.default_rng(3).normal(size=(6, 6)) / 2
    oracle = frx.oracle.Gaussian(np.linspace(-1, 1, 6), root @ root.T + 0.3 * np.eye(6))
    model = oracle.model(frx.Linear(), prior=frx.prior.Gaussian(kept.shape, std=1.5))
    y, matrix, noise, n = np.array([0.5, 1.0]), np.eye(6)[kept.reshape(-1)], np.array([[0.09, 0.1], [0.1, 0.3]]), 2000
    exact = oracle.posterior(matrix, y, noise)
    draws = frx.posterior(model, frx.LinearGaussian(obs.Mask(kept), y, noise_covariance=noise), key, n, grid=16)
    assert draws.method == "Conjugate" and draws.x.shape == (n, 1, 2, 3) and draws.residual.shape == (n, 2)
    np.testing.assert_allclose(draws.log_evidence, oracle.log_evidence(matrix, y, noise), atol=5e-3)
    spread = np.sqrt(np.diag(exact.covariance))
    assert np.all(np.abs(draws.x.reshape(n, 6).mean(0) - exact.mean) < 4.5 * spread / np.sqrt(n))


def identity(z):
    return z


def tempered(observation, shape, key):
    """The draws of a standard normal prior by islands, and the method's estimate of the evidence."""
    problem = frx.inverse.NoiseProblem(identity, observation.log_likelihood, shape, jnp.dtype(jnp.float32))
    draws = frx.TemperedSMC(num_islands=8, num_particles=16)(problem, key, 800)
    return np.asarray(draws.x, float).reshape(8, 100, -1), float(draws.log_evidence), float(draws.log_evidence_error)


def check_means(islands, want, spread):
    """The islands are independent: their mean has Student's t with seven degrees of freedom."""
    means = islands.mean(1)
    error = means.std(0, ddof=1) / np.sqrt(8)
    assert np.all(np.abs(means.mean(0) - want) < 5.5 * error) and np.all(error < 0.2 * spread), (means.mean(0), want)


@pytest.mark.accuracy
def test_a_masked_matrix_by_tempered_smc(key):
    """Events of rank 2."""
    kept, y = np.array([[True, False], [False, True]]), np.array([0.7, -1.0])
    islands, evidence, error = tempered(frx.LinearGaussian(obs.Mask(kept), y, 0.5), (2, 2), key)
    shrunk = y / 1.25
    check_means(islands, [shrunk[0], 0, 0, shrunk[1]], np.sqrt([0.2, 1, 1, 0.2]))
    closed = stats.norm.logpdf(y, 0, np.sqrt(1.25)).sum()
    assert abs(evidence - closed) < 4.5 * error < 0.5


@pytest.mark.accuracy
def test_a_differential_equation_within_a_measurement(key):
    """Decay at the rate `exp(x)`, solved by diffrax, against quadrature over the rate."""
    times, y, noise = jnp.asarray([0.5, 1.0, 2.0]), np.array([0.7, 0.45, 0.2]), 0.05
    term, saved = dfx.ODETerm(lambda t, u, rate: -rate * u), dfx.SaveAt(ts=times)
    control = dfx.PIDController(rtol=1e-4, atol=1e-6)

    def decay(x):
        solved = dfx.diffeqsolve(
            term,
            dfx.Bosh3(),
            0.0,
            2.0,
            0.1,
            jnp.asarray(1.0),
            jnp.exp(x[0]),
            saveat=saved,
            stepsize_controller=control,
            max_steps=512,
        )
        return solved.ys

    islands, evidence, error = tempered(frx.NonlinearGaussian(decay, y, noise), (1,), key)
    grid = np.linspace(-5, 5, 4001)
    solution = np.exp(-np.exp(grid)[:, None] * np.asarray(times))
    terms = stats.norm.logpdf(grid) + stats.norm.logpdf(y, solution, noise).sum(1)
    density = np.exp(terms - terms.max())
    weights, closed = density / density.sum(), np.log(density.sum() * (grid[1] - grid[0])) + terms.max()
    mean = weights @ grid
    check_means(islands, mean, np.sqrt(weights @ (grid - mean) ** 2))
    assert abs(evidence - closed) < 4.5 * error < 0.4


ROWS = np.stack([Y, Y + 1, 2 * Y]).astype(np.float32)
OF_ROWS = {
    "linear": lambda y: frx.LinearGaussian(MATRIX, y, SCALE),
    "own noise": lambda y: frx.LinearGaussian(
        MATRIX, y, frx.Batched(0.1 + np.abs(y.value)) if isinstance(y, frx.Batched) else 0.1 + np.abs(y)
    ),
    "correlated": lambda y: frx.LinearGaussian(OPERATORS["function"], y, noise_covariance=COVARIANCE),
    "nonlinear": lambda y: frx.NonlinearGaussian(jnp.sin, y, noise_covariance=COVARIANCE),
    "counts": lambda y: frx.Poisson(
        jnp.exp, frx.Batched(np.round(np.abs(y.value))) if isinstance(y, frx.Batched) else np.round(np.abs(y))
    ),
    "laplace": lambda y: obs.Laplace(jnp.sin, y, SCALE),
    "student": lambda y: obs.StudentT(jnp.sin, y, 0.3, 2.5),
}


@pytest.mark.parametrize("name", OF_ROWS)
def test_rows_of_values(name):
    """Each row, also under a map over their numbers, is the measurement of its values."""
    observation, x = OF_ROWS[name](frx.Batched(ROWS)), jnp.asarray(X, jnp.float32)
    assert obs.num_rows(observation) == 3
    want = [OF_ROWS[name](row).log_likelihood(x) for row in ROWS]
    got = jax.vmap(lambda i: obs.observation_of_row(observation, i).log_likelihood(x))(jnp.arange(3))
    np.testing.assert_allclose(got, want, rtol=1e-5)
    assert obs.num_rows(obs.observation_of_row(observation, 2)) is None
    with pytest.raises(ValueError, match="holds Batched values of 3 measurements where one is needed; pass one row"):
        observation.check_event((3,))
    with pytest.raises(ValueError, match="holds Batched values of 3 measurements where one is needed"):
        observation.log_likelihood(x)


def test_rows_of_an_observation_of_the_users_own():
    class Own:
        def log_likelihood(self, x):
            return -jnp.sum(x**2)

    assert obs.num_rows(Own()) is None
    with pytest.raises(ValueError, match="There is no row 3; the Laplace has 3, counted from 0"):
        obs.observation_of_row(OF_ROWS["laplace"](frx.Batched(ROWS)), 3)
    with pytest.raises(ValueError, match="Laplace holds no Batched values, so it has no rows"):
        obs.observation_of_row(CASES["laplace"][0], 0)


def test_a_rate_of_zero_allows_no_count_but_zero():
    at = jnp.zeros(2)
    assert abs(frx.Poisson(lambda x: x, [0, 0]).log_likelihood(at)) < 1e-5
    assert frx.Poisson(lambda x: x, [1, 0]).log_likelihood(at) == -jnp.inf


REFUSED = {
    "y holds 2 values that are no counts; pass non-negative integers": lambda: frx.Poisson(jnp.exp, [1.5, -1.0, 2.0]),
    "scale must be positive; got": lambda: obs.Laplace(jnp.sin, Y, 0.0),
    "df must be positive; got": lambda: obs.StudentT(jnp.sin, Y, 1.0, -1.0),
    "noise_std has shape (2,) but (3,) is expected": lambda: frx.NonlinearGaussian(jnp.sin, Y, [1.0, 2.0]),
    "function maps the model's events to shape (2,), but y has shape (3,)": lambda: frx.NonlinearGaussian(
        jnp.sin, Y, 1.0
    ).check_event((2,)),
    "function cannot be applied to the model's events, of shape (2,): the measured value has shape (2,) but (3,) is": (
        lambda: frx.NonlinearGaussian(jnp.sin, Y, noise_covariance=COVARIANCE).check_event((2,))
    ),
    "rate_function cannot be applied to the model's events, of shape (4,)": lambda: frx.Poisson(
        lambda x: jnp.eye(3) @ x, COUNTS
    ).check_event((4,)),
    "operator acts on events of shape (2, 2), but the model's have shape (4,)": lambda: frx.LinearGaussian(
        obs.Projection(0, (2, 2)), [1.0, 2.0], 0.1
    ).check_event((4,)),
    "y has shape (4,) but (2, 2) is expected": lambda: frx.LinearGaussian(
        obs.Blur([[1.0]], (2, 2)), [1.0, 2.0, 3.0, 4.0], 0.1
    ),
    "a row of y has shape (2,) but (3,) is expected": lambda: frx.LinearGaussian(
        MATRIX, frx.Batched(np.ones((5, 2))), 0.1
    ),
    "y=Batched(...) has shape (), but at least one row is expected": lambda: frx.Poisson(jnp.exp, frx.Batched(1.0)),
    "noise_std is Batched but y is not": lambda: frx.LinearGaussian(MATRIX, Y, frx.Batched(1 + ROWS**2)),
    "Pass either noise_std= or noise_covariance=": lambda: frx.LinearGaussian(MATRIX, Y),
    "got 0. No method conditions on exact equalities: pass a small noise_std, or a": lambda: frx.LinearGaussian(
        MATRIX, Y, 0.0
    ),
    "noise_covariance has shape (2, 2) but (3, 3) is expected": lambda: frx.LinearGaussian(
        MATRIX, Y, noise_covariance=np.eye(2)
    ),
    "noise_covariance must be symmetric; it differs from its transpose by up to 0.3": lambda: frx.NonlinearGaussian(
        jnp.sin, Y, noise_covariance=np.eye(3) + np.eye(3, k=1) * 0.3
    ),
    "noise_covariance must be positive definite; its smallest eigenvalue is -0.414": lambda: frx.LinearGaussian(
        MATRIX, Y, noise_covariance=np.eye(3) + np.eye(3, k=1) + np.eye(3, k=-1)
    ),
    "operator would be a matrix of 10000 x 10000 elements": lambda: (
        frx.LinearGaussian(obs.Blur([1.0], (10000,)), np.zeros(10000), 1.0).operator
    ),
}


@pytest.mark.parametrize("words", REFUSED)
def test_refusals(words):
    with pytest.raises(ValueError) as error:
        REFUSED[words]()
    assert words in str(error.value) and len(str(error.value)) <= 240
