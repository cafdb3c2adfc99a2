"""Score models as other libraries write them: their conventions in ours, and what goes wrong there goes right here."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

import flowrax as frx

# Of dx = f x ds + g dW in diffusion time s, written from Song et al. 2021: f, g^2 and the noise's standard deviation.
VE = (0.01, 10.0)


def vp_integral(s, low=0.1, high=20.0):
    return low * s + 0.5 * (high - low) * s**2


def vp_rate(s, low=0.1, high=20.0):
    return low + (high - low) * s


PROCESSES = {
    "ve": (
        frx.VarianceExploding(*VE),
        lambda s: 0.0,
        lambda s: 2 * np.log(VE[1] / VE[0]) * (VE[0] * (VE[1] / VE[0]) ** s) ** 2,
        lambda s: VE[0] * (VE[1] / VE[0]) ** s,
    ),
    "vp": (
        frx.VariancePreserving(),
        lambda s: -0.5 * vp_rate(s),
        vp_rate,
        lambda s: np.sqrt(1 - np.exp(-vp_integral(s))),
    ),
    "subvp": (
        frx.SubVariancePreserving(),
        lambda s: -0.5 * vp_rate(s),
        lambda s: vp_rate(s) * (1 - np.exp(-2 * vp_integral(s))),
        lambda s: 1 - np.exp(-vp_integral(s)),
    ),
}


def raw(x, s):
    """Their network, in their time."""
    return jnp.sin(2 * x + s) - 0.3 * x[::-1]


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("s", [0.1, 0.5, 0.9])
def test_both_kinds_of_score_network(name, s, x64):
    """Score = network / sigma is a noise network of the other sign; score = network is a score network; and the drift
    of the probability flow, f x - g^2 score / 2, changes its sign with the time."""
    schedule, f, g2, sigma = PROCESSES[name]
    x = jnp.array([0.7, -1.3])
    options = {"shape": (2,), "dtype": jnp.float64, "t_min": 0.05, "t_max": 0.95}
    divided = frx.Model(lambda t, x, c: -raw(x, 1 - t), schedule, frx.Noise(), **options)
    plain = frx.Model(lambda t, x, c: raw(x, 1 - t), schedule, frx.Score(), **options)
    for model, score in ((divided, np.asarray(raw(x, s)) / sigma(s)), (plain, np.asarray(raw(x, s)))):
        got = model.predict(1 - s, x)
        np.testing.assert_allclose(got.score, score, rtol=1e-9)
        np.testing.assert_allclose(-got.velocity, f(s) * np.asarray(x) - 0.5 * g2(s) * score, rtol=1e-9, atol=1e-12)


def test_the_perceptron_has_their_features_in_another_order(x64):
    """[sin, cos](2 pi W t), condition, x; theirs have x before the condition: columns of the first weight move."""
    ours = frx.nn.MLP(
        (2,), key=jax.random.key(0), condition_size=1, width=5, depth=1, num_frequencies=3, frequency_scale=16.0
    )
    weight, bias = (np.asarray(v) for v in (ours.layers[0].weight, ours.layers[0].bias))
    theirs = np.concatenate([weight[:, :6], weight[:, 7:], weight[:, 6:7]], axis=1)
    x, c, t = np.array([0.4, -1.0]), np.array([2.0]), 0.3
    angle = 2 * np.pi * np.asarray(ours.features.frequencies) * t
    h = theirs @ np.concatenate([np.sin(angle), np.cos(angle), x, c]) + bias
    want = np.asarray(ours.layers[1].weight) @ (h / (1 + np.exp(-h))) + np.asarray(ours.layers[1].bias)
    np.testing.assert_allclose(ours(t, jnp.asarray(x), jnp.asarray(c)), want, rtol=1e-10)


class Bounded(eqx.Module):
    """The exact score of standard normal data under a VP process, and NaN outside the interval: its flow stands still,
    so adaptive steps grow as long as they may."""

    low: float
    high: float

    def __call__(self, t, x, condition):
        return jnp.where((t >= self.low) & (t <= self.high), -x, jnp.nan)


@pytest.mark.accuracy
def test_no_step_leaves_the_interval(x64):
    low, high = 0.0, 1 - 1e-3
    network = Bounded(low, high)
    model = frx.Model(
        network, frx.VariancePreserving(), frx.Score(), shape=(1,), dtype=jnp.float64, t_min=low, t_max=high
    )
    x = np.linspace(-2, 2, 5)[:, None]
    draws = frx.sample(model, jax.random.key(0), 5, x0=x, with_log_prob=True)
    np.testing.assert_allclose(draws.x, x, atol=1e-10)
    value = frx.log_prob(model, x).value
    # Of the source, whose standard deviation is sigma(0) = 1 - 2e-5.
    np.testing.assert_allclose(value, norm.logpdf(x[:, 0]), atol=1e-4)


def test_a_process_that_ends_at_another_time(x64):
    """s in [0, T] is t = 1 - s / T, and rates per unit of s are multiplied by T: densities come out as they are."""
    end, rate, mean, std = 2.0, 8.0, 0.5, 0.7
    # dx = -(rate / 2) x ds + sqrt(rate) dW: the law at s of N(mean, std^2).
    alpha = lambda s: jnp.exp(-0.5 * rate * s)  # noqa: E731

    def score(x, s):
        return -(x - alpha(s) * mean) / (alpha(s) ** 2 * std**2 + 1 - alpha(s) ** 2)

    model = frx.Model(
        lambda t, x, c: score(x, end * (1 - t)),
        frx.VariancePreserving(end * rate, end * rate * (1 + 1e-9)),
        frx.Score(),
        shape=(1,),
        dtype=jnp.float64,
        t_max=1 - 1e-3 / end,
    )
    x = np.linspace(-1, 2, 5)[:, None]
    a = float(alpha(1e-3))
    want = norm.logpdf(x[:, 0], a * mean, np.sqrt(a**2 * std**2 + 1 - a**2))
    got = frx.log_prob(model, x, rtol=1e-8, atol=1e-8).value
    # What is left of the data at s = T, which the source neglects.
    start = alpha(end)
    left = abs(float(start)) * mean + 0.5 * float(start) ** 2 * 0.51
    np.testing.assert_allclose(got, want, atol=4 * left)
    np.testing.assert_allclose(float(model.schedule.alpha(jnp.asarray(0.0))), float(start), rtol=1e-6)
