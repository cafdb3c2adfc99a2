"""Models whose noise is not standard normal: conversions, densities and samplers against closed forms."""

from typing import Any

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

import flowrax as frx
from flowrax import prior as pr
from laws import SCHEDULES, assert_moments, covariances
from priors import dense, images, make_priors


def centred_oracle(prior, seed=0):
    """A mixture in the range of a prior."""
    matrix = images(prior, prior.project)
    size = len(matrix)
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


@pytest.mark.accuracy
@pytest.mark.parametrize("name", MODELS)
def test_oracle_of_a_prior_by_differences(name, x64, key):
    """Density by scipy; the score is its gradient on the range, and the velocity solves the continuity equation."""
    prior, schedule, t = make_priors()[name], frx.Cosine(), 0.6
    oracle = centred_oracle(prior)
    model, law = oracle.model(schedule, prior=prior), marginal(oracle, prior, schedule, t)
    x = float(schedule.alpha(t)) * oracle.draw(key).reshape(prior.shape) + float(schedule.sigma(t)) * prior.draw(key)

    def both(x):
        density, gradient = jax.value_and_grad(model.source_at(t).log_density)(x)
        velocity = lambda y: model.predict(jnp.asarray(t), y.reshape(prior.shape)).velocity.reshape(-1)  # noqa: E731
        prediction = model.predict(jnp.asarray(t), x)
        return density, gradient, prediction.score, prediction.velocity, jax.jacfwd(velocity)(x.reshape(-1))

    density, gradient, score, velocity, jacobian = map(np.asarray, jax.jit(both)(x))
    x = np.asarray(x)
    assert float(density) == pytest.approx(law(x), abs=1e-8)
    assert np.allclose(score, gradient, rtol=0, atol=1e-8)
    low, high = (marginal(oracle, prior, schedule, t + step)(x) for step in (-1e-5, 1e-5))
    # On the range only: what leaves it has no density to be conserved.
    divergence = np.trace(images(prior, prior.project) @ jacobian)
    residual = (high - low) / 2e-5 + np.sum(velocity * gradient) + divergence
    assert abs(residual) <= 1e-5 * (1 + abs(divergence))


TARGETS = {"data": frx.Data(), "noise": frx.Noise(), "velocity": frx.Velocity(), "score": frx.Score()}


def trained(oracle, prior, schedule, target):
    """A model whose network is exact in its target on the range, and wild in what leaves it."""
    exact = oracle.model(schedule, prior=prior)

    def network(t, x, condition):
        outside = jnp.sin(3 * x) + 1
        return getattr(exact.predict(t, x), target) + outside - prior.project(outside)

    return frx.Model(network, schedule, TARGETS[target], shape=prior.shape, prior=prior, dtype=jnp.float64)


def forms(model):
    """All forms of a model's prediction at `(t, x)`, compiled."""

    def predict(t, x):
        prediction = model.predict(t, x)
        return {form: getattr(prediction, form) for form in TARGETS}

    return jax.jit(predict)


@pytest.mark.accuracy
@pytest.mark.parametrize("name", MODELS)
def test_all_conversions_of_a_prior(name, x64, key):
    """From each target to each form."""
    prior, schedule = make_priors()[name], frx.Cosine()
    oracle = centred_oracle(prior)
    x = 0.5 * oracle.draw(key).reshape(prior.shape) + prior.draw(key)
    want = forms(oracle.model(schedule, prior=prior))(jnp.asarray(0.7), x)
    for target in TARGETS:
        got = forms(trained(oracle, prior, schedule, target))(jnp.asarray(0.7), x)
        for form in TARGETS:
            scale = 1 + np.max(np.abs(want[form]))
            assert np.max(np.abs(got[form] - want[form])) <= 1e-8 * scale, (target, form)


@pytest.mark.accuracy
@pytest.mark.parametrize(("name", "target"), [("centred", "velocity"), ("masked", "data"), ("harmonic", "data")])
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
# For the one of first order.
FINE = np.concatenate([np.geomspace(1e-3, 0.1, 200)[:-1], np.linspace(0.1, 1, 400)])
SDES = {
    "SDE": (frx.ReverseSDE(), dfx.ShARK()),
    "constant SDE": (frx.ReverseSDE(frx.dynamics.Constant(0.3), t_min=1e-3), dfx.ShARK()),
    "ancestral": (frx.ReverseSDE(), frx.DDIM()),
    "SEEDS": (frx.ReverseSDE(frx.dynamics.SBDM(0.5)), frx.SEEDS()),
    "multistep SDE": (frx.ReverseSDE(), frx.DPMSolverPP()),
    "churn": (frx.Churn(0.2), None),
    "corrector": (frx.PredictorCorrector(frx.ProbabilityFlow(), snr=0.1), dfx.Heun()),
    "Langevin": (frx.Langevin(0.5, 4.0), dfx.ShARK()),
}


@pytest.mark.accuracy
@pytest.mark.parametrize("kind", SDES)
def test_noise_of_a_prior_keeps_the_marginals(kind, x64):
    """Moments of 4,000 draws within 5 standard errors, with a mean and a covariance that show any mistake.

    The covariance is singular and full: a prior that is diagonal or masked is a special case of it.
    """
    prior, schedule = make_priors()["low rank"], frx.Linear()
    oracle = centred_oracle(prior)
    model = oracle.model(schedule, prior=prior)
    dynamics, solver = SDES[kind]
    langevin = kind == "Langevin"
    grid = 200 if langevin else np.append(0.0, GRID) if dynamics.interval(model)[0] == 0 else np.append(GRID, 1.0)
    grid = FINE if kind == "ancestral" else grid
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
    got, want = forms(frx.guidance.GuidedModel(free, observation, Exact()))(t, x), forms(tied)(t, x)
    for form in TARGETS:
        assert np.allclose(got[form], want[form], rtol=1e-8, atol=1e-8), form


class Net(frx.model.AbstractNetwork):
    weight: jax.Array
    bias: jax.Array

    def __call__(self, t, x, condition=None, *, key=None):
        return self.weight @ x + self.bias


@pytest.mark.accuracy
def test_fit_draws_from_the_prior_and_leaves_it_alone(x64):
    """A linear velocity network at one time learns the regression of x1 - x0 on x_t under the prior's covariance."""
    prior = pr.Gaussian((2,), mean=[1.0, -1.0], std=[0.5, 2.0])

    class Half(frx.times.AbstractUnitTimes):
        def unit(self, key, n, dtype):
            return jnp.full((n,), 0.5, dtype)

    oracle = frx.oracle.Gaussian([0.5, 0.0], [[1.0, 0.3], [0.3, 0.5]])
    data = oracle.sample(jax.random.key(0), (4000,))
    model = frx.Model(Net(jnp.zeros((2, 2)), jnp.zeros(2)), frx.Linear(), shape=(2,), prior=prior)
    options = dict(num_steps=1500, batch_size=512, progress=False, loss=frx.Matching(times=Half()))
    fitted = frx.fit(model, data, jax.random.key(1), optimizer=optax.adam(0.02), **options).model
    assert np.array_equal(fitted.prior.std, prior.std) and np.array_equal(fitted.prior.mean, prior.mean)
    s, c = np.cov(np.asarray(data).T), np.diag([0.25, 4.0])
    want = (0.5 * s - 0.5 * c) @ np.linalg.inv(0.25 * s + 0.25 * c)
    network: Any = fitted.network
    assert np.allclose(network.weight, want, rtol=0, atol=0.08)


ERRORS = {
    "no density": (lambda: pr.Empirical(np.zeros((3, 2))).log_density(jnp.zeros(2)), "has no density"),
    "no score": (lambda: model_of(pr.Empirical(np.zeros((3, 2)))).score_interval, "is not Gaussian"),
    "no score target": (lambda: model_of(pr.Empirical(np.zeros((3, 2))), frx.Score()), "is not Gaussian"),
    "shape": (lambda: model_of(pr.Gaussian((3,))), "A draw of prior has shape"),
    "mean": (lambda: pr.CorrelatedGaussian(np.diag([1.0, 0.0]), mean=np.ones(2)), "outside the range"),
    "negative": (lambda: pr.CorrelatedGaussian(np.diag([1.0, -1.0])), "negative eigenvalue"),
    "negative std": (lambda: pr.Gaussian((2,), std=[1.0, -1.0]), "must not be negative; its smallest element is -1"),
    "negative scalar std": (lambda: pr.Gaussian((2,), std=-2.0), "must not be negative"),
    "negative centred std": (lambda: pr.CentredGaussian((2, 2), std=-1.0), "must not be negative"),
    "mean at padding": (lambda: pr.Gaussian((2,), mean=1, std=[1, 0]), "outside the range of the prior"),
    "chain": (lambda: pr.Harmonic(1), "at least 2"),
    "oracle off the range": (
        lambda: frx.oracle.Gaussian(np.ones(4), np.eye(4)).model(frx.Linear(), prior=pr.CentredGaussian((2, 2))),
        "leaves the range",
    ),
    "event off the range": (
        lambda: frx.log_prob(centred_model(), CENTRED + 100),
        "x leaves the range of the singular prior CentredGaussian by up to 100; centre it with prior.remove_centre",
    ),
    "start off the range": (
        lambda: frx.sample(centred_model(), jax.random.key(0), 2, x0=CENTRED + 1),
        "x0 leaves the range of the singular prior",
    ),
    "data off the range": (
        lambda: frx.fit(trainable(pr.CentredGaussian((2, 2))), np.ones((5, 2, 2)), jax.random.key(0)),
        "remove_centre",
    ),
}


CENTRED = np.array([[[1.0, -2.0], [-1.0, 2.0]], [[0.5, 0.0], [-0.5, 0.0]]])


def centred_model():
    return frx.oracle.Gaussian(np.zeros(4), np.kron([[1, -1], [-1, 1]], np.eye(2))).model(
        frx.Linear(), prior=pr.CentredGaussian((2, 2))
    )


def trainable(prior):
    return frx.Model(Net(jnp.zeros((2, 2)), jnp.zeros(2)), frx.Linear(), shape=prior.shape, prior=prior)


def model_of(prior, target=None, shape=(2,)):
    return frx.Model(lambda t, x, c: x, frx.Linear(), target, shape=shape, prior=prior)


@pytest.mark.parametrize("what", ERRORS)
def test_errors(what, x64):
    act, text = ERRORS[what]
    with pytest.raises(ValueError, match=text):
        act()


@pytest.mark.accuracy
def test_schedules_of_a_standard_prior_written_out(x64, key):
    """`Gaussian` given as a covariance is the standard normal, under every schedule."""
    oracle = frx.oracle.Gaussian([0.5, -1.0], [[1.0, 0.3], [0.3, 0.5]])
    x = jax.random.normal(key, (2,))
    for schedule in SCHEDULES.values():
        plain, written = oracle.model(schedule), oracle.model(schedule, prior=pr.CorrelatedGaussian(np.eye(2)))
        a, b = forms(plain), forms(written)
        for t in (0.3, 1.0):
            for got, want in zip(a(jnp.asarray(t), x).values(), b(jnp.asarray(t), x).values(), strict=True):
                assert np.allclose(got, want, rtol=1e-9, atol=1e-9)
