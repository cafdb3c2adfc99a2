"""Two-sided paths with a latent between Gaussians, where velocity, latent, score and every marginal are known."""

from typing import Any

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

import flowrax as frx
from flowrax import interpolant as ip
from laws import assert_moments, covariances

PATHS = {
    "linear": ip.Latent(frx.Linear(), ip.Brownian(0.8)),
    "trigonometric": ip.Latent(frx.Cosine(), ip.Quadratic(1.5)),
    "encoder-decoder": ip.Latent(ip.EncoderDecoder(), ip.SineSquared()),
    "blurred": ip.Latent(frx.Linear(), ip.ConstantGamma(0.3)),
}


def squared(gamma, t):
    """The square of the scale, which has a derivative where the scale may have none."""
    return gamma.scale**2 * t * (1 - t) if isinstance(gamma, ip.Brownian) else gamma(t) ** 2


class Ends:
    """Jointly Gaussian ends, dependent unless told otherwise."""

    def __init__(self, coupled=True):
        joint = np.asarray(covariances(jax.random.key(3), 1, 4, jnp.float64)[0])
        self.c0, self.c1, self.c10 = joint[:2, :2], joint[2:, 2:], joint[2:, :2] * coupled
        self.m0, self.m1 = np.array([1.0, -0.5]), np.array([-1.0, 2.0])

    def scales(self, path, t):
        """alpha, sigma and gamma^2 with their rates, by differences of the path's own scales."""
        functions = path.schedule.alpha, path.schedule.sigma, lambda t: squared(path.gamma, t)
        return [(f(t), jax.grad(lambda t, f=f: jnp.sum(f(t)))(t)) for f in functions]

    def covariance(self, path, t):
        (a, _), (s, _), (g, _) = self.scales(path, t)
        return a**2 * self.c1 + s**2 * self.c0 + a * s * (self.c10 + self.c10.T) + g * np.eye(2)

    def moments(self, path, t):
        (a, _), (s, _), _ = self.scales(path, t)
        return a * self.m1 + s * self.m0, self.covariance(path, t)

    def linear(self, path, form, t):
        """Slope and offset of the expectation of a form given x."""
        (a, a_rate), (s, s_rate), (g, g_rate) = self.scales(path, t)
        mean, covariance = self.moments(path, t)
        (p, q), (r, w) = covariance
        inverse = jnp.stack([jnp.stack([w, -q]), jnp.stack([-r, p])]) / (p * w - q * r)
        cross, middle = {
            "velocity": (
                a * a_rate * self.c1
                + s * s_rate * self.c0
                + a_rate * s * self.c10
                + s_rate * a * self.c10.T
                + g_rate / 2 * np.eye(2),
                a_rate * self.m1 + s_rate * self.m0,
            ),
            "latent": (jnp.sqrt(g) * np.eye(2), jnp.zeros(2)),
            "score": (-np.eye(2), jnp.zeros(2)),
        }[form]
        slope = cross @ inverse
        return slope, middle - slope @ mean

    def network(self, path, form):
        def network(t, x, condition):
            slope, offset = self.linear(path, form, t)
            return slope @ x + offset

        return network

    def model(self, path, form, **options):
        target = {"velocity": frx.Velocity(), "latent": frx.target.LatentNoise(), "score": frx.Score()}[form]
        return frx.Model(self.network(path, form), path, target, shape=(2,), dtype=jnp.float64, **options)

    def draw(self, key, n):
        joint = np.block([[self.c0, self.c10.T], [self.c10, self.c1]])
        z = np.asarray(jax.random.normal(key, (n, 4))) @ np.linalg.cholesky(joint).T
        return z[:, :2] + self.m0, z[:, 2:] + self.m1


@pytest.mark.parametrize("gamma", [ip.Brownian(0.7), ip.Quadratic(2.0), ip.SineSquared(), ip.ConstantGamma(0.4)])
def test_rate_of_gamma(gamma, x64):
    for t in (0.1, 0.5, 0.8):
        difference = (gamma(t + 1e-6) - gamma(t - 1e-6)) / 2e-6
        assert float(gamma.rate(jnp.asarray(t))) == pytest.approx(float(difference), abs=1e-8)
    assert bool(gamma.vanishes) == (float(gamma(0.0)) == 0) == (abs(float(gamma(1.0))) < 1e-30)


@pytest.mark.parametrize("name", PATHS)
def test_velocity_is_the_rate_of_the_path(name, x64, key):
    path = PATHS[name]
    x0, x1, z = jax.random.normal(key, (3, 2))
    ends = jnp.stack([x0, z])

    @jax.jit
    @jax.vmap
    def rates(t):
        _, rate = jax.jvp(lambda t: path.interpolate(t, ends, x1), (t,), (jnp.ones(()),))
        return path.velocity(t, ends, x1), rate

    velocity, rate = rates(jnp.asarray([0.2, 0.45, 0.8]))
    assert np.allclose(velocity, rate, rtol=1e-10, atol=1e-10)


def test_paths_of_torchcfm(x64, key):
    """Its four matchers: mean, standard deviation and conditional velocity as its papers have them."""
    x0, x1, z = jax.random.normal(key, (3, 2))
    ends, s, t = jnp.stack([x0, z]), 0.3, 0.35
    bridge = ip.Latent(frx.Linear(), ip.Brownian(s))
    x = bridge.interpolate(t, ends, x1)
    mean = t * x1 + (1 - t) * x0
    assert np.allclose(x, mean + s * np.sqrt(t * (1 - t)) * z)
    assert np.allclose(bridge.velocity(t, ends, x1), (1 - 2 * t) / (2 * t * (1 - t)) * (x - mean) + x1 - x0)
    blurred = ip.Latent(frx.Linear(), ip.ConstantGamma(s))
    assert np.allclose(blurred.interpolate(t, ends, x1), mean + s * z)
    assert np.allclose(blurred.velocity(t, ends, x1), x1 - x0)
    trigonometric = ip.Latent(frx.Cosine(), ip.ConstantGamma(s))
    angle = np.pi * t / 2
    assert np.allclose(trigonometric.interpolate(t, ends, x1), np.cos(angle) * x0 + np.sin(angle) * x1 + s * z)
    assert np.allclose(trigonometric.velocity(t, ends, x1), np.pi / 2 * (np.cos(angle) * x1 - np.sin(angle) * x0))
    target = frx.Affine(frx.schedule.ConditionalOT(s))
    x = target.interpolate(t, x0, x1)
    assert np.allclose(x, t * x1 + (1 - (1 - s) * t) * x0)
    assert np.allclose(target.velocity(t, x0, x1), (x1 - (1 - s) * x) / (1 - (1 - s) * t))


@pytest.mark.parametrize("name", PATHS)
def test_score_is_that_of_the_marginal(name, x64, key):
    ends, path, t = Ends(), PATHS[name], jnp.asarray(0.3)
    bridge = frx.Bridge(ends.model(path, "velocity"), ends.model(path, "latent"))
    x = jax.random.normal(key, (2,))
    mean, covariance = ends.moments(path, t)
    want = -np.linalg.solve(np.asarray(covariance), np.asarray(x - mean))
    for model in (bridge, ends.model(path, "score")):
        score = jax.jit(lambda t, x, model=model: model.predict(t, x).score)(t, x)
        assert np.allclose(score, want, rtol=1e-9, atol=1e-9)


@pytest.mark.accuracy
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("linear", "flow"),
        ("linear", "SDE"),
        ("trigonometric", "SDE"),
        ("encoder-decoder", "flow"),
        ("blurred", "SDE"),
    ],
)
def test_bridge_carries_one_end_to_the_other(name, kind, x64):
    """From draws of the one law to the other, dependent as the ends are, moments within 5 standard errors."""
    ends, path = Ends(), PATHS[name]
    bridge = frx.Bridge(ends.model(path, "velocity"), ends.model(path, "latent"))
    dynamics = frx.ProbabilityFlow() if kind == "flow" else frx.ReverseSDE(frx.dynamics.Parabola(0.3))
    low, high = dynamics.interval(bridge)
    mean, covariance = map(np.asarray, ends.moments(path, jnp.asarray(low)))
    start = np.asarray(jax.random.normal(jax.random.key(1), (3000, 2))) @ np.linalg.cholesky(covariance).T + mean
    solver = dfx.Heun() if kind == "flow" else dfx.ShARK()
    x = frx.sample(bridge, jax.random.key(2), 3000, x0=start, dynamics=dynamics, solver=solver, grid=100).x
    mean, covariance = map(np.asarray, ends.moments(path, jnp.asarray(high)))
    assert_moments(x, mean, covariance + np.outer(mean, mean))


@pytest.mark.accuracy
def test_density_of_a_bridge_from_a_gaussian(x64):
    """The change of variables from the first end's density is the second's."""
    ends, path = Ends(), PATHS["trigonometric"]
    prior = frx.prior.CorrelatedGaussian(ends.c0, mean=ends.m0)
    model = ends.model(path, "velocity", prior=prior)
    x = ends.draw(jax.random.key(0), 4)[1]
    want = scipy.stats.multivariate_normal(ends.m1, ends.c1).logpdf(x)
    assert np.allclose(frx.log_prob(model, x, rtol=1e-8, atol=1e-8).value, want, rtol=0, atol=1e-5)


LOSSES = {"velocity": frx.loss.AntitheticMatching(), "latent": frx.Matching(), "score": frx.Matching()}


class Line(frx.model.AbstractNetwork):
    """A linear network."""

    slope: jax.Array
    offset: jax.Array

    def __call__(self, t, x, condition=None, *, key=None):
        return self.slope @ x + self.offset


@pytest.mark.parametrize(
    ("name", "form"),
    [
        *((name, "velocity") for name in PATHS),
        ("linear", "latent"),
        ("blurred", "latent"),
        ("trigonometric", "score"),
        ("encoder-decoder", "score"),
    ],
)
def test_losses_are_least_at_the_expectation(name, form, x64):
    """The mean gradient vanishes at the closed form within 5 standard errors; a tenth away it does not."""
    ends, path, loss, t = Ends(), PATHS[name], LOSSES[form], jnp.asarray(0.3)
    model = ends.model(path, form)
    x0, x1 = ends.draw(jax.random.key(5), 20_000)
    noise = jax.vmap(path.noise)(jax.random.split(jax.random.key(6), 20_000), jnp.asarray(x0))

    def one(network, x0, x1):
        return loss(frx.Model(network, path, model.target, shape=(2,), dtype=jnp.float64), t, x0, x1)

    exact = Line(*ends.linear(path, form, t))
    gradients = jax.jit(jax.vmap(jax.grad(one), (None, 0, 0)))
    off = Line(exact.slope + 0.1, exact.offset)
    at, away = (np.asarray(gradients(network, noise, x1).slope) for network in (exact, off))
    assert np.all(np.abs(at.mean(0)) <= 5 * at.std(0) / 20_000**0.5)
    assert np.any(np.abs(away.mean(0)) > 5 * away.std(0) / 20_000**0.5)


def test_antithetic_loss_is_the_squared_error_without_its_infinity(x64, key):
    """The plain loss of both signs less the square of what the rate multiplies; finite at the very ends."""
    path = PATHS["linear"]
    network = lambda t, x, condition: jnp.sin(x) + t  # noqa: E731
    model = frx.Model(network, path, shape=(2,), dtype=jnp.float64)
    x0, x1, z = jax.random.normal(key, (3, 2))
    plain = jax.jit(lambda t, sign: frx.Matching()(model, t, jnp.stack([x0, sign * z]), x1))
    loss = jax.jit(lambda t: frx.loss.AntitheticMatching()(model, t, jnp.stack([x0, z]), x1))
    t = jnp.asarray(0.2)
    want = (plain(t, 1.0) + plain(t, -1.0)) / 2 - path.gamma.rate(t) ** 2 * jnp.mean(z**2)
    assert float(loss(t)) == pytest.approx(float(want), rel=1e-10)
    for end, near in ((0.0, 1e-9), (1.0, 1 - 1e-9)):
        assert float(loss(jnp.asarray(end))) == pytest.approx(float(loss(jnp.asarray(near))), abs=1e-3)


def test_fit_joins_measured_pairs(x64):
    """Pairs x1 = A x0 + m: the velocity at half time is linear in x without any error."""
    a, m = np.array([[1.5, 0.4], [-0.3, 0.6]]), np.array([1.0, -1.0])
    x0 = np.asarray(jax.random.normal(jax.random.key(0), (500, 2)))
    x1 = x0 @ a.T + m

    class Half(frx.times.AbstractUnitTimes):
        def unit(self, key, n, dtype):
            return jnp.full((n,), 0.5, dtype)

    model = frx.Model(Line(jnp.zeros((2, 2)), jnp.zeros(2)), frx.Linear(), shape=(2,))
    options = dict(num_steps=1500, batch_size=100, progress=False, ema_decay=0.9, loss=frx.Matching(times=Half()))
    fitted = frx.fit(model, x1, jax.random.key(1), x0=x0, optimizer=optax.adam(0.02), **options).model
    slope = (a - np.eye(2)) @ np.linalg.inv((a + np.eye(2)) / 2)
    network: Any = fitted.network
    assert np.allclose(network.slope, slope, rtol=0, atol=1e-3)
    assert np.allclose(network.offset, m - slope @ m / 2, rtol=0, atol=1e-3)
    with pytest.raises(ValueError, match="coupling makes noise and data dependent"):
        _ = fitted.score_interval


def test_fit_of_a_bridge_between_data_sets(x64):
    """Unpaired rows of an empirical prior: the latent of the path at half time is that of the two Gaussians."""
    ends, path, n = Ends(coupled=False), PATHS["linear"], 4000
    x0, x1 = ends.draw(jax.random.key(0), n)
    prior = frx.prior.Empirical(x0)
    target = frx.target.LatentNoise()
    model = frx.Model(Line(jnp.zeros((2, 2)), jnp.zeros(2)), path, target, shape=(2,), prior=prior)

    class Half(frx.times.AbstractUnitTimes):
        def unit(self, key, n, dtype):
            return jnp.full((n,), 0.5, dtype)

    options = dict(num_steps=1000, batch_size=500, progress=False, ema_decay=0.99, loss=frx.Matching(times=Half()))
    fitted = frx.fit(model, x1, jax.random.key(1), optimizer=optax.adam(0.02), **options).model
    assert np.array_equal(fitted.prior.data, x0)
    slope, _ = ends.linear(path, "latent", jnp.asarray(0.5))
    # The covariance of 4,000 draws has a relative error of a few per cent.
    network: Any = fitted.network
    assert np.allclose(network.slope, slope, rtol=0.08, atol=0.08)


ERRORS = {
    "no score": (lambda: Ends().model(PATHS["linear"], "velocity").score_interval, "velocity of a path with a latent"),
    "no data": (
        lambda: frx.sample(Ends().model(PATHS["linear"], "velocity"), jax.random.key(0), 2, solver=frx.DDIM(), grid=3),
        "exponential solvers",
    ),
    "target": (lambda: frx.Model(lambda t, x, c: x, PATHS["linear"], frx.Data(), shape=(2,)), "Velocity"),
    "affine": (
        lambda: frx.Model(lambda t, x, c: x, frx.Linear(), frx.target.LatentNoise(), shape=(2,)),
        "with a latent",
    ),
    "other paths": (
        lambda: frx.Bridge(Ends().model(PATHS["linear"], "velocity"), Ends().model(PATHS["blurred"], "latent")),
        "other interpolants",
    ),
}


@pytest.mark.parametrize("what", ERRORS)
def test_errors(what, x64):
    act, text = ERRORS[what]
    with pytest.raises(ValueError, match=text):
        act()
