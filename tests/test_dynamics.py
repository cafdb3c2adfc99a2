"""Every dynamics keeps the marginals: moments and sliced Wasserstein distances at the level of sampling noise."""

import functools

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

import flowrax as frx
from flowrax import dynamics as dyn
from laws import SCHEDULES, assert_moments, mixture

pytestmark = pytest.mark.accuracy

NUM = 2000
COEFFICIENTS = (
    dyn.SBDM(),
    dyn.Constant(0.5),
    dyn.Sigma(),
    dyn.LinearDecay(),
    dyn.QuadraticDecay(2.0),
    dyn.CosineDecay(),
    dyn.Parabola(),
    dyn.SinePulse(),
    dyn.RaisedSine(),
    dyn.LinearGrowth(),
    dyn.Odds(),
    dyn.Cotangent(offset=0.0),
    dyn.InversePower(1.5, offset=0.1),
    dyn.SigmoidPower(dyn.Odds(), 0.9, 0.0),
    dyn.Capped(dyn.InversePower(2.0), 3.0),
    dyn.Scaled(dyn.SBDM(), 0.5),
    dyn.Custom(lambda t: 0.5 + t**2),
)
# Even in the logarithm of time near the noise, where the SBDM coefficient is as 1 / t; even in time after.
GRID = np.concatenate([np.geomspace(1e-3, 0.1, 80)[:-1], np.linspace(0.1, 0.999, 180)])


class Chosen(dyn.AbstractDiffusion):
    """One of `COEFFICIENTS` by a number that is traced, so that all of them share one compilation."""

    index: jax.Array

    def __call__(self, schedule, t):
        branches = [lambda t, w=w: jnp.asarray(w(schedule, t), t.dtype) for w in COEFFICIENTS]
        return jax.lax.switch(self.index, branches, jnp.asarray(t))

    def is_singular_at_start(self, schedule):
        return True


def oracle():
    return mixture(4, 2, "float32", seed=2)


@functools.cache
def exact_pairs(num):
    """21 sets of data and noise, `(21, num, 2)` each."""
    keys = jax.vmap(jax.random.key)(100 + jnp.arange(21))

    def pair(key):
        return oracle().sample(key, (num,)), jax.random.normal(jax.random.fold_in(key, 1), (num, 2))

    return [np.asarray(x, np.float64) for x in jax.jit(jax.vmap(pair))(keys)]


def log_density(x, alpha, sigma):
    """Of the interpolant's law at these scales, in double precision."""
    laws = zip(oracle().weights, oracle().means, oracle().covariances, strict=True)
    weights, means, covs = zip(*(map(np.float64, law) for law in laws), strict=True)
    parts = [
        multivariate_normal(alpha * m, alpha**2 * c + sigma**2 * np.eye(2)) for m, c in zip(means, covs, strict=True)
    ]
    return logsumexp([part.logpdf(x) for part in parts], axis=0, b=np.divide(weights, sum(weights))[:, None])


DIRECTIONS = np.stack([np.cos(np.pi * np.arange(32) / 32), np.sin(np.pi * np.arange(32) / 32)])


def sliced_wasserstein(x, y):
    """Root mean square over 32 directions and all quantiles."""
    return np.sqrt(np.mean((np.sort(x @ DIRECTIONS, axis=0) - np.sort(y @ DIRECTIONS, axis=0)) ** 2))


@functools.cache
def exact_law(alpha, sigma, num):
    """Of the interpolant at these scales: a set of draws, moments, log-densities, the largest distance allowed."""
    data, noise = exact_pairs(num)
    sets = alpha * data + sigma * noise
    many = np.concatenate(sets)
    between = [sliced_wasserstein(a, b) for a, b in zip(sets[:-1], sets[1:], strict=True)]
    room = np.mean(between) + 5 * np.std(between)
    return sets[0], many.mean(0), many.T @ many / len(many), log_density(many, alpha, sigma), room


def assert_law(x, schedule, t):
    """Moments, mean log-density and sliced Wasserstein distance of draws, against sets of exact ones.

    Means within 5 standard errors; the mean log-density sees the width of each component, whatever lies between them.
    The distance within the mean and 5 standard deviations of what 20 pairs of exact sets show.
    """
    x, alpha, sigma = np.asarray(x, np.float64), float(schedule.alpha(t)), float(schedule.sigma(t))
    exact, mean, second, want, room = exact_law(alpha, sigma, len(x))
    assert_moments(x, mean, second)
    got = log_density(x, alpha, sigma)
    assert abs(got.mean() - want.mean()) <= 5 * want.std() * (1 / len(got) + 1 / len(want)) ** 0.5
    assert sliced_wasserstein(x, exact) <= room


def trained(target):
    """A model whose network is exact for its target; the source is the ordinary Gaussian."""
    exact = oracle().model(frx.Linear())
    forms = {"velocity": frx.Velocity(), "score": frx.Score(), "data": frx.Data()}
    network = lambda t, x, condition: getattr(exact.predict(t, x), target)  # noqa: E731
    return frx.Model(network, frx.Linear(), forms[target], shape=(2,), dtype=np.float32)


@pytest.fixture(scope="module")
def models():
    return {target: trained(target) for target in ("velocity", "score", "data")}


# How a score is found and what is multiplied with it are apart: other targets see the first coefficients alone.
KEPT = [("velocity", i) for i in range(len(COEFFICIENTS))] + [(t, i) for t in ("score", "data") for i in range(2)]


@pytest.mark.parametrize(
    ("target", "index"), KEPT, ids=lambda v: v if isinstance(v, str) else type(COEFFICIENTS[v]).__name__
)
def test_reverse_sde_keeps_the_marginals(target, index, models):
    model = models[target]
    # A score in the target's place costs the interval its first hundredth.
    grid = GRID[GRID >= model.t_min]
    sde = frx.ReverseSDE(Chosen(jnp.asarray(index)), t_min=float(grid[0]))
    samples = frx.sample(model, jax.random.key(1), NUM, dynamics=sde, grid=grid)
    assert_law(samples.x, model.schedule, 0.999)


@pytest.mark.parametrize("name", SCHEDULES)
def test_default_reverse_sde_under_every_schedule(name):
    model = oracle().model(SCHEDULES[name])
    low, high = frx.ReverseSDE().interval(model)
    grid = np.append(GRID, 1.0) if low > 0 else np.linspace(low, high, 257)
    samples = frx.sample(model, jax.random.key(2), NUM, dynamics=frx.ReverseSDE(), grid=grid)
    assert_law(samples.x, model.schedule, 1.0)


def test_adaptive_reverse_sde():
    """At the default tolerance, on a Brownian tree."""
    model = oracle().model(frx.VariancePreserving())
    samples = frx.sample(model, jax.random.key(3), 500, dynamics=frx.ReverseSDE())
    assert_law(samples.x, model.schedule, 1.0)


LANGEVIN = {
    "Euler": (dyn.Langevin(0.5, 2.0), dfx.Euler(), 200),
    "SEA": (dyn.Langevin(0.5, 2.0), dfx.SEA(), 200),
    "ShARK": (dyn.Langevin(0.5, 2.0), dfx.ShARK(), 100),
    "ALIGN": (dyn.UnderdampedLangevin(0.5, 5.0), dfx.ALIGN(0.1), 100),
    "ShOULD": (dyn.UnderdampedLangevin(0.5, 5.0), dfx.ShOULD(0.1), 100),
    "QUICSORT": (dyn.UnderdampedLangevin(0.5, 5.0), dfx.QUICSORT(0.1), 100),
}


@pytest.mark.parametrize("solver", LANGEVIN)
def test_langevin_keeps_the_marginal(solver):
    """Started from the exact marginal at its time, over many relaxation times."""
    dynamics, method, steps = LANGEVIN[solver]
    model = oracle().model(frx.Linear())
    options = dict(solver=method, grid=steps, saveat=dfx.SaveAt(t0=True))
    samples = frx.sample(model, jax.random.key(4), NUM, dynamics=dynamics, **options)
    assert_law(samples.x, model.schedule, 0.5)
    assert samples.trajectory is not None
    moved = np.asarray(samples.x - samples.trajectory[:, 0])
    assert np.sqrt(np.mean(moved**2)) > 0.5


@pytest.mark.parametrize("dynamics", [dyn.Langevin(0.5, 8.0), dyn.UnderdampedLangevin(0.5, 16.0)])
def test_langevin_forgets_its_start(dynamics):
    """From a single point to the Gaussian at its time."""
    covariance = np.float32([[1.0, 0.6], [0.6, 0.5]])
    model = frx.oracle.Gaussian(np.float32([0.5, -1.0]), covariance).model(frx.Linear())
    x0 = np.zeros((NUM, 2), np.float32)
    x = frx.sample(model, jax.random.key(5), NUM, dynamics=dynamics, x0=x0, grid=400).x
    mean, cov = np.array([0.25, -0.5]), 0.25 * np.asarray(covariance, np.float64) + 0.25 * np.eye(2)
    assert_moments(x, mean, cov + np.outer(mean, mean))


@pytest.mark.parametrize("predictor", [frx.ProbabilityFlow(), frx.ReverseSDE()], ids=["flow", "SDE"])
def test_predictor_corrector_keeps_the_marginals(predictor, models):
    dynamics = frx.PredictorCorrector(predictor, num_steps=2, snr=0.1)
    model = models["velocity"]
    grid = np.append(0.0, GRID) if dynamics.interval(model)[0] == 0 else GRID
    x = frx.sample(model, jax.random.key(6), NUM, dynamics=dynamics, grid=grid).x
    assert_law(x, model.schedule, 0.999)
    # The corrector has moved the samples: without it they would be the predictor's.
    alone = frx.sample(model, jax.random.key(6), NUM, dynamics=predictor, solver=dfx.Euler(), grid=64).x
    assert float(jnp.sqrt(jnp.mean((x - alone) ** 2))) > 0.1


def test_corrector_mends_a_wrong_start():
    """Annealed Langevin steps pull draws of a wrong source towards the marginals; the flow alone keeps them wrong."""
    model, schedule = oracle().model(frx.VariancePreserving()), frx.VariancePreserving()
    wrong = 2.0 * np.asarray(jax.random.normal(jax.random.key(7), (NUM, 2)))
    corrected = frx.PredictorCorrector(frx.ProbabilityFlow(), num_steps=4, snr=0.3)
    exact = exact_law(float(schedule.alpha(1.0)), float(schedule.sigma(1.0)), NUM)[0]
    options = dict(x0=wrong, grid=100, solver=dfx.Heun())
    distance = {
        name: sliced_wasserstein(np.asarray(frx.sample(model, jax.random.key(9), NUM, dynamics=d, **options).x), exact)
        for name, d in {"flow": frx.ProbabilityFlow(), "corrected": corrected}.items()
    }
    assert distance["corrected"] < 0.5 * distance["flow"]


@pytest.mark.parametrize(
    ("schedule", "solver"),
    [(frx.Linear(), dfx.ALIGN(0.1)), (frx.VarianceExploding(0.1, 5.0), dfx.ShOULD(0.1))],
    ids=["align-linear", "should-ve"],
)
def test_underdamped_langevin_of_a_network(schedule, solver, key, x64):
    """A model that holds more than arrays moves as the law that its network computes."""
    exact = mixture(3, 2, "float64").model(schedule)
    model = frx.Model(
        lambda t, x, c: exact.predict(t, x).score, schedule, frx.Score(), shape=(2,), dtype="float64", t_min=0.1
    )
    options = dict(dynamics=dyn.UnderdampedLangevin(0.5, 1.0), solver=solver, grid=8, x0=np.ones((2, 2)))
    got, want = (frx.sample(m, key, 2, **options).x for m in (model, exact))
    np.testing.assert_allclose(got, want, rtol=1e-9)


def test_gradient_of_the_stochastic_flow_to_the_data(x64):
    """Against central differences: no NaN comes back through the score that is infinite at t = 1."""
    network = lambda t, x, c: jnp.sin(x)  # noqa: E731
    dynamics = frx.StochasticFlow(dyn.Constant(0.1), t_ode=0.9)

    def loss(model, x0):
        return jnp.sum(frx.sample(model, jax.random.key(0), 1, x0=x0, dynamics=dynamics, **options).x ** 2)

    options = dict(solver=dfx.Heun(), grid=4)
    x0, e = jnp.array([[0.3]]), 1e-6
    model = frx.Model(network, frx.Linear(), shape=(1,), dtype="float64")
    for law in (model, frx.warp(model, frx.Cosine())):
        both = jax.jit(jax.value_and_grad(functools.partial(loss, law)))
        (plus, _), (minus, _), (_, got) = both(x0 + e), both(x0 - e), both(x0)
        np.testing.assert_allclose(got[0, 0], (plus - minus) / (2 * e), rtol=1e-7)


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: dyn.Constant(-1.0), "scale must not be negative; got -1.0."),
        (lambda: frx.StochasticFlow(dyn.Constant(), noise_temperature=-1.0), "noise_temperature must not be negative"),
        (lambda: frx.StochasticFlow(dyn.Constant(), score_temperature=-2.0), "score_temperature must not be negative"),
    ],
)
def test_negative_coefficients_are_refused(build, text):
    with pytest.raises(ValueError, match="^" + text):
        build()
