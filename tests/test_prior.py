"""Priors against dense linear algebra and exact draws, and models of them against closed forms."""

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import flowrax as frx
from flowrax import prior as pr
from laws import SCHEDULES, assert_moments, covariances

MASK = np.array([1, 0, 1, 1, 0])


def make_priors():
    full = np.asarray(covariances(jax.random.key(1), 1, 6, jnp.float64)[0])
    low = full @ np.diag([1.0, 1, 1, 1, 0, 0]) @ full
    return {
        "standard": pr.Gaussian((4, 2)),
        "diagonal": pr.Gaussian((3,), mean=[1.0, 0.0, -1.0], std=[0.5, 2.0, 3.0]),
        "padded": pr.Gaussian((3, 2), std=np.array([[1.0, 2], [0, 0], [0.5, 1]])),
        "centred": pr.CentredGaussian((4, 3), std=1.5),
        "masked": pr.CentredGaussian((5, 2), std=0.7, mean=np.arange(10.0).reshape(5, 2), mask=MASK),
        "full": pr.CorrelatedGaussian(full, mean=np.arange(6.0).reshape(3, 2), shape=(3, 2)),
        "low rank": pr.CorrelatedGaussian(low, mean=low @ np.ones(6)),
        "harmonic": pr.Harmonic(5, 2, distance=2.0),
    }


with jax.enable_x64(True):
    NAMES = list(make_priors())


def dense(prior):
    """Mean `(d,)` and covariance `(d, d)`, from the images of unit vectors under the draw."""
    size = int(np.prod(prior.shape))
    unit = jnp.eye(size).reshape(size, *prior.shape)
    root = np.asarray(jax.vmap(prior.root)(unit)).reshape(size, size)
    return np.asarray(prior.mean).reshape(-1), root.T @ root


@pytest.mark.parametrize("name", NAMES)
def test_products_are_those_of_the_dense_covariance(name, x64, key):
    prior = make_priors()[name]
    _, covariance = dense(prior)
    x = jax.random.normal(key, prior.shape)
    flat = np.asarray(x).reshape(-1)
    inverse = np.linalg.pinv(covariance, rcond=1e-10)
    pairs = [(prior.covariance_product, covariance), (prior.precision_product, inverse)]
    for product, matrix in [*pairs, (prior.project, covariance @ inverse)]:
        assert np.allclose(np.asarray(product(x)).reshape(-1), matrix @ flat, rtol=1e-9, atol=1e-9)
    values = np.linalg.eigvalsh(covariance)
    kept = values[values > 1e-10 * values.max()]
    assert int(prior.rank) == len(kept)
    assert float(prior.log_determinant) == pytest.approx(np.log(kept).sum(), abs=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_log_density_is_that_of_scipy(name, x64, key):
    """With respect to the subspace where the covariance is singular."""
    prior = make_priors()[name]
    mean, covariance = dense(prior)
    law = scipy.stats.multivariate_normal(mean, covariance, allow_singular=True)
    for k in range(3):
        x = prior.draw(jax.random.fold_in(key, k))
        assert float(prior.log_density(x)) == pytest.approx(law.logpdf(np.asarray(x).reshape(-1)), abs=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_rescaled_is_the_law_of_the_scaled_draw(name, x64, key):
    prior = make_priors()[name]
    small = prior.rescaled(0.3)
    x = prior.draw(key)
    assert np.allclose(small.draw(key), 0.3 * x, rtol=1e-12, atol=1e-12)
    change = -int(prior.rank) * np.log(0.3)
    assert float(small.log_density(0.3 * x)) == pytest.approx(float(prior.log_density(x)) + change, abs=1e-9)


@pytest.mark.parametrize("length", [2, 7, 16])
def test_harmonic_is_the_inverse_laplacian(length, x64):
    """Any length, not only the one first asked for, against `pinv` of the springs' matrix."""
    prior = pr.Harmonic(length, 1, distance=1.3)
    springs = np.diff(np.eye(length), axis=0)
    want = np.linalg.pinv(3 / 1.3**2 * springs.T @ springs)
    assert np.allclose(dense(prior)[1], want, rtol=0, atol=1e-11)


def test_harmonic_neighbours_are_a_distance_apart(x64, key):
    """Root mean square over 20,000 chains; every squared distance is d^2 / 3 times a chi-squared of 3."""
    x = jax.vmap(pr.Harmonic(6).draw)(jax.random.split(key, 20_000))
    squared = np.sum(np.diff(np.asarray(x), axis=1) ** 2, axis=-1)
    error = 3.8**2 / 3 * np.sqrt(6 / 20_000)
    assert np.all(np.abs(squared.mean(0) - 3.8**2) <= 5 * error)
    assert np.max(np.abs(np.asarray(x).mean(1))) < 1e-12


def test_standard_deviation_is_no_variance(x64, key):
    x = np.asarray(jax.vmap(pr.Gaussian((3,), std=3.0).draw)(jax.random.split(key, 20_000)))
    assert_moments(x, np.zeros(3), 9 * np.eye(3))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_centre_of_masked_points(dtype, x64, key):
    """Padding, even NaN, neither counts nor stays; the centre of each row is zero."""
    x = np.asarray(100 + jax.random.normal(key, (3, 5, 2)), dtype)
    mask = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]])
    x[mask == 0] = np.nan
    got = np.asarray(pr.remove_centre(jnp.asarray(x), mask))
    assert np.all(got[mask == 0] == 0)
    assert np.max(np.abs(got.sum(1))) <= 1e3 * np.finfo(dtype).eps
    want = x[0, :3] - x[0, :3].mean(0)
    assert np.allclose(got[0, :3], want, rtol=0, atol=200 * np.finfo(dtype).eps)


def test_masks_of_several_sizes_in_one_map(x64, key):
    masks = jnp.arange(6)[None, :] < jnp.asarray([2, 4, 6])[:, None]
    draw = lambda key, mask: pr.CentredGaussian((6, 2), mask=mask).draw(key)  # noqa: E731
    x = np.asarray(jax.vmap(draw)(jax.random.split(key, 3), masks))
    assert np.all(x[~np.asarray(masks)] == 0)
    assert np.max(np.abs(x.sum(1))) < 1e-12


def test_empirical_draws_are_rows(key):
    data = np.float32([[0, 0], [1, 2], [3, 4]])
    x = np.asarray(jax.vmap(pr.Empirical(data).draw)(jax.random.split(key, 3000)))
    index = np.searchsorted(data[:, 0], x[:, 0])
    assert np.array_equal(data[index], x)
    assert np.all(np.abs(np.bincount(index) - 1000) <= 5 * np.sqrt(3000 * 2 / 9))


def centred_oracle(prior, seed=0):
    """A mixture in the range of a prior."""
    size = int(np.prod(prior.shape))
    matrix = np.asarray(jax.vmap(prior.project)(jnp.eye(size).reshape(size, *prior.shape))).reshape(size, size)
    means = np.asarray(jax.random.normal(jax.random.key(seed), (2, size))) @ matrix
    covs = matrix @ np.asarray(covariances(jax.random.key(seed + 1), 2, size, jnp.float64)) @ matrix
    return frx.oracle.GaussianMixture([0.3, 0.7], means, covs)


def marginal(oracle, prior, schedule, t):
    """Of `alpha x1 + sigma x0`, by scipy, on the range."""
    alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
    mean, covariance = dense(prior)
    laws = [
        scipy.stats.multivariate_normal(
            alpha * np.asarray(m) + sigma * mean, alpha**2 * np.asarray(c) + sigma**2 * covariance, allow_singular=True
        )
        for m, c in zip(oracle.means, oracle.covariances, strict=True)
    ]
    return lambda x: scipy.special.logsumexp([law.logpdf(x.reshape(-1)) for law in laws], b=oracle.weights)


MODELS = ["diagonal", "centred", "masked", "full", "low rank", "harmonic"]


@pytest.mark.parametrize("name", MODELS)
def test_oracle_of_a_prior_by_differences(name, x64, key):
    """Density by scipy; the score is its gradient on the range, and the velocity solves the continuity equation."""
    prior, schedule, t = make_priors()[name], frx.Cosine(), 0.6
    oracle = centred_oracle(prior)
    model, law = oracle.model(schedule, prior=prior), marginal(oracle, prior, schedule, t)
    x = float(schedule.alpha(t)) * oracle.draw(key).reshape(prior.shape) + float(schedule.sigma(t)) * prior.draw(key)
    source = model.source_at(t)
    assert float(source.log_density(x)) == pytest.approx(law(np.asarray(x)), abs=1e-8)
    prediction = model.predict(jnp.asarray(t), x)
    gradient = jax.grad(source.log_density)(x)
    assert np.allclose(prediction.score, gradient, rtol=0, atol=1e-8)
    flat = x.reshape(-1)
    velocity = lambda y: model.predict(jnp.asarray(t), y.reshape(prior.shape)).velocity.reshape(-1)  # noqa: E731
    step = 1e-5
    rate = (
        marginal(oracle, prior, schedule, t + step)(np.asarray(x))
        - marginal(oracle, prior, schedule, t - step)(np.asarray(x))
    ) / (2 * step)
    # On the range only: what leaves it has no density to be conserved.
    matrix = np.asarray(jax.vmap(prior.project)(jnp.eye(flat.size).reshape(-1, *prior.shape))).reshape(flat.size, -1)
    divergence = np.trace(matrix @ np.asarray(jax.jacfwd(velocity)(flat)))
    residual = rate + float(velocity(flat) @ gradient.reshape(-1)) + divergence
    assert abs(residual) <= 1e-5 * (1 + abs(divergence))


TARGETS = {"data": frx.Data(), "noise": frx.Noise(), "velocity": frx.Velocity(), "score": frx.Score()}


def trained(oracle, prior, schedule, target):
    """A model whose network is exact in its target on the range, and wild in what leaves it."""
    exact = oracle.model(schedule, prior=prior)

    def network(t, x, condition):
        outside = jnp.sin(3 * x) + 1
        return getattr(exact.predict(t, x), target) + outside - prior.project(outside)

    return frx.Model(network, schedule, TARGETS[target], shape=prior.shape, prior=prior, dtype=jnp.float64)


@pytest.mark.parametrize("name", MODELS)
def test_all_conversions_of_a_prior(name, x64, key):
    """From each target to each form."""
    prior, schedule = make_priors()[name], frx.Cosine()
    oracle = centred_oracle(prior)
    x = 0.5 * oracle.draw(key).reshape(prior.shape) + prior.draw(key)
    for target in TARGETS:
        model, exact = trained(oracle, prior, schedule, target), oracle.model(schedule, prior=prior)
        for t in (0.1, 0.7):
            got, want = model.predict(jnp.asarray(t), x), exact.predict(jnp.asarray(t), x)
            for form in TARGETS:
                scale = 1 + np.max(np.abs(getattr(want, form)))
                assert np.max(np.abs(getattr(got, form) - getattr(want, form))) <= 1e-8 * scale, (target, form)


@pytest.mark.parametrize("target", ["velocity", "data"])
@pytest.mark.parametrize("name", ["centred", "masked", "full", "harmonic"])
def test_log_prob_is_that_on_the_subspace(name, target, x64, key):
    """Against the closed form of the mixture there; the exact trace is over the whole space."""
    prior, schedule = make_priors()[name], frx.Linear()
    oracle = centred_oracle(prior)
    model = trained(oracle, prior, schedule, target)
    law = marginal(oracle, prior, schedule, model.t_max)
    x = np.asarray(jax.vmap(oracle.draw)(jax.random.split(key, 3)).reshape(3, *prior.shape))
    noise = np.asarray(jax.vmap(prior.draw)(jax.random.split(key, 3)))
    x = float(schedule.alpha(model.t_max)) * x + float(schedule.sigma(model.t_max)) * noise
    got = frx.log_prob(model, x, rtol=1e-8, atol=1e-8).value
    assert np.allclose(got, [law(row) for row in x], rtol=0, atol=1e-5)


GRID = np.concatenate([np.geomspace(1e-3, 0.1, 30)[:-1], np.linspace(0.1, 0.999, 70)])
SDES = {
    "SDE": (frx.ReverseSDE(), dfx.ShARK()),
    "constant SDE": (frx.ReverseSDE(frx.dynamics.Constant(0.3), t_min=1e-3), dfx.ShARK()),
    "ancestral": (frx.ReverseSDE(), frx.DDIM()),
    "SEEDS": (frx.ReverseSDE(frx.dynamics.SBDM(0.5)), frx.SEEDS()),
    "multistep SDE": (frx.ReverseSDE(), frx.DPMSolverPP()),
    "churn": (frx.Churn(0.2), None),
    "corrector": (frx.PredictorCorrector(frx.ProbabilityFlow(), snr=0.1), dfx.Heun()),
    "Langevin": (frx.Langevin(0.5, 4.0), dfx.ShARK()),
    "underdamped": (frx.UnderdampedLangevin(0.5, 8.0), None),
}


@pytest.mark.accuracy
@pytest.mark.parametrize("kind", SDES)
@pytest.mark.parametrize("name", ["diagonal", "masked", "full"])
def test_noise_of_a_prior_keeps_the_marginals(name, kind, x64):
    """Moments of 4,000 draws within 5 standard errors, with a mean and a covariance that show any mistake."""
    prior, schedule = make_priors()[name], frx.Linear()
    oracle = centred_oracle(prior)
    model = oracle.model(schedule, prior=prior)
    dynamics, solver = SDES[kind]
    langevin = kind in ("Langevin", "underdamped")
    grid = 200 if langevin else np.append(0.0, GRID) if dynamics.interval(model)[0] == 0 else np.append(GRID, 1.0)
    if not langevin and grid[-1] < dynamics.interval(model)[1]:
        grid = np.append(grid, 1.0)
    x = frx.sample(model, jax.random.key(3), 4000, dynamics=dynamics, solver=solver, grid=grid).x
    t = 0.5 if langevin else 1.0
    alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
    weights, means, covs = (np.asarray(v) for v in (oracle.weights, oracle.means, oracle.covariances))
    mean, covariance = dense(prior)
    means, covs = alpha * means + sigma * mean, alpha**2 * covs + sigma**2 * covariance
    second = np.einsum("k,kij->ij", weights, covs + means[:, :, None] * means[:, None, :])
    flat = np.asarray(x).reshape(4000, -1)
    assert np.max(np.abs(np.asarray(x - jax.vmap(prior.project)(x)))) < 1e-9
    # Rounding alone moves what is zero.
    kept = np.diagonal(second) > 1e-12
    assert_moments(flat[:, kept], (weights @ means)[kept], second[np.ix_(kept, kept)])


def test_guidance_with_a_prior_is_the_posterior_of_a_gaussian(x64, key):
    """A likelihood score of Gaussian data, exact, turns the oracle's forms into those of its posterior."""
    prior, schedule, t = make_priors()["full"], frx.Cosine(), jnp.asarray(0.6)
    mean, cov = np.zeros(6), np.asarray(covariances(jax.random.key(4), 1, 6, jnp.float64)[0])
    operator, noise, y = np.eye(6)[:2] + 0.3, 0.1 * np.eye(2), np.array([0.5, -1.0])
    oracle = frx.oracle.Gaussian(mean, cov)
    free, tied = (o.model(schedule, prior=prior) for o in (oracle, oracle.posterior(operator, y, noise)))
    x = prior.draw(key)

    class Exact(frx.guidance.AbstractGuidance):
        def __call__(self, model, observation, t, x, condition):
            return model.predict(t, x), tied.predict(t, x).score - model.predict(t, x).score

    observation = frx.LinearGaussian(operator, y, np.sqrt(np.diagonal(noise)))
    got = frx.guidance.GuidedModel(free, observation, Exact()).predict(t, x)
    want = tied.predict(t, x)
    for form in ("data", "noise", "velocity", "score"):
        assert np.allclose(getattr(got, form), getattr(want, form), rtol=1e-8, atol=1e-8), form


def test_fit_draws_from_the_prior_and_leaves_it_alone(x64):
    """A linear velocity network at one time learns the regression of x1 - x0 on x_t under the prior's covariance."""
    prior = pr.Gaussian((2,), mean=[1.0, -1.0], std=[0.5, 2.0])

    class Net(frx.abstract.AbstractNetwork):
        weight: jax.Array
        bias: jax.Array

        def __call__(self, t, x, condition=None, *, key=None):
            return self.weight @ x + self.bias

    class Half(frx.times.AbstractTimes):
        def __call__(self, key, n, low, high, dtype):
            return jnp.full((n,), 0.5, dtype)

    oracle = frx.oracle.Gaussian([0.5, 0.0], [[1.0, 0.3], [0.3, 0.5]])
    data = oracle.sample(jax.random.key(0), (4000,))
    model = frx.Model(Net(jnp.zeros((2, 2)), jnp.zeros(2)), frx.Linear(), shape=(2,), prior=prior)
    options = dict(num_steps=1500, batch_size=512, progress=False, loss=frx.Matching(times=Half()))
    fitted = frx.fit(model, data, jax.random.key(1), optimizer=__import__("optax").adam(0.02), **options).model
    assert np.array_equal(fitted.prior.std, prior.std) and np.array_equal(fitted.prior.mean, prior.mean)
    s, c = np.cov(np.asarray(data).T), np.diag([0.25, 4.0])
    want = (0.5 * s - 0.5 * c) @ np.linalg.inv(0.25 * s + 0.25 * c)
    assert np.allclose(fitted.network.weight, want, rtol=0, atol=0.08)


ERRORS = {
    "no density": (lambda: pr.Empirical(np.zeros((3, 2))).log_density(jnp.zeros(2)), "has no density"),
    "no score": (lambda: model_of(pr.Empirical(np.zeros((3, 2)))).score_interval, "is not Gaussian"),
    "no score target": (lambda: model_of(pr.Empirical(np.zeros((3, 2))), frx.Score()), "is not Gaussian"),
    "shape": (lambda: model_of(pr.Gaussian((3,))), "A draw of prior has shape"),
    "mean": (lambda: pr.CorrelatedGaussian(np.diag([1.0, 0.0]), mean=np.ones(2)), "outside the range"),
    "negative": (lambda: pr.CorrelatedGaussian(np.diag([1.0, -1.0])), "negative eigenvalue"),
    "chain": (lambda: pr.Harmonic(1), "at least 2"),
    "oracle off the range": (
        lambda: frx.oracle.Gaussian(np.ones(4), np.eye(4)).model(frx.Linear(), prior=pr.CentredGaussian((2, 2))),
        "leaves the range",
    ),
    "data off the range": (
        lambda: frx.fit(model_of(pr.CentredGaussian((2, 2)), shape=(2, 2)), np.ones((5, 2, 2)), jax.random.key(0)),
        "remove_centre",
    ),
}


def model_of(prior, target=None, shape=(2,)):
    return frx.Model(lambda t, x, c: x, frx.Linear(), target, shape=shape, prior=prior)


@pytest.mark.parametrize("what", ERRORS)
def test_errors(what, x64):
    act, text = ERRORS[what]
    with pytest.raises(ValueError, match=text):
        act()


def test_schedules_of_a_standard_prior_written_out(x64, key):
    """`Gaussian` given as a covariance is the standard normal, under every schedule."""
    oracle = frx.oracle.Gaussian([0.5, -1.0], [[1.0, 0.3], [0.3, 0.5]])
    x = jax.random.normal(key, (2,))
    for schedule in SCHEDULES.values():
        plain, written = oracle.model(schedule), oracle.model(schedule, prior=pr.CorrelatedGaussian(np.eye(2)))
        for t in (0.3, 1.0):
            a, b = (m.predict(jnp.asarray(t), x) for m in (plain, written))
            for form in ("data", "noise", "velocity", "score"):
                assert np.allclose(getattr(a, form), getattr(b, form), rtol=1e-9, atol=1e-9)
