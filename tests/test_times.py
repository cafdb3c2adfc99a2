"""Laws of training times against their distribution functions."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

import flowrax as frx
from flowrax import times
from flowrax.train.step import Task

N = 4000
# The largest distance of two distribution functions is above this with probability 1e-6 (Kolmogorov).
FAR = 2.7 / N**0.5


def distance(draws, cdf):
    """Kolmogorov's distance of draws from a law."""
    x = np.sort(np.asarray(draws, np.float64).ravel())
    want, n = cdf(x), len(x)
    return max(np.max(np.arange(1, n + 1) / n - want), np.max(want - np.arange(n) / n))


def test_pairs_are_ordered_and_each_sample_tosses_its_own_coin(key):
    pairs = np.asarray(times.TimePairs(same=0.75)(key, N, 0.2, 0.8, jnp.float32))
    assert pairs.shape == (N, 2)
    t, r = pairs.T
    assert (t <= r).all() and t.min() >= 0.2 and r.max() <= 0.8
    together = t == r
    assert abs(together.mean() - 0.75) <= 5 * (0.75 * 0.25 / N) ** 0.5
    assert abs(np.mean(together[1:] & together[:-1]) - 0.75**2) <= 5 * 0.75 / N**0.5
    unit = (pairs - 0.2) / 0.6
    # Alone, the law of the draws; apart, the smaller and the larger of two.
    assert distance(unit[together, 0], lambda x: x) <= FAR * 2
    assert distance(unit[~together, 0], lambda x: 1 - (1 - x) ** 2) <= FAR * 3
    assert distance(unit[~together, 1], lambda x: x**2) <= FAR * 3


def test_pairs_of_another_law(key):
    pairs = times.TimePairs(times.Beta(2.0, 1.0), same=1.0)(key, N, 0.0, 1.0, jnp.float32)
    assert distance(pairs[:, 1], lambda x: x**2) <= FAR


def test_shifted_times_are_the_shift_of_a_law(key):
    """In diffusion time the median of a uniform law moves to k / (1 + k)."""
    t = times.Shifted(times.Uniform(), 3.0)(key, N, 0.0, 1.0, jnp.float32)
    s = 1 - np.asarray(t, np.float64)
    assert distance(s, lambda s: s / (3 - 2 * s)) <= FAR


def test_antithetic_times_cancel_what_is_odd(key):
    t = times.Antithetic()(key, N, 0.25, 1.0, jnp.float32)
    assert jnp.allclose(jnp.mean(t), 0.625, atol=1e-6)
    assert distance(t, lambda x: (x - 0.25) / 0.75) <= FAR
    odd = times.Antithetic()(key, 7, 0.0, 1.0, jnp.float32)
    assert odd.shape == (7,) and np.allclose(odd[4:], 1 - odd[:3])


def test_laws_run_under_jit_in_half_precision(key):
    draw = jax.jit(lambda k: times.TimePairs(times.LogitNormal())(k, 8, 0.0, 1.0, jnp.bfloat16))
    assert draw(key).dtype == jnp.bfloat16


SNR_SCHEDULES = {
    "vp": (frx.VariancePreserving(), 0.0, 0.99),
    "edm": (frx.EDM(), 0.0, 1.0),
    "linear": (frx.Linear(), 0.02, 0.97),
    "cosine_snr": (frx.schedule.CosineSNR(), 0.01, 1.0),
}


@pytest.mark.parametrize("name", SNR_SCHEDULES)
def test_importance_sampling_is_proportional_to_the_weight_and_unbiased(name, key):
    """Against quadrature of g^2 / sigma^2, with independent draws of the level."""
    schedule, low, high = SNR_SCHEDULES[name]
    law = times.LikelihoodTimes(schedule, times.Uniform())
    t = law(key, N, low, high, jnp.float32)
    points = jnp.linspace(low, high, 20_001)
    weight = np.asarray(schedule.diffusion_squared(points) / schedule.sigma(points) ** 2, np.float64)
    total = np.concatenate([[0], np.cumsum((weight[1:] + weight[:-1]) / 2)])
    assert distance(t, lambda x: np.interp(x, points, total / total[-1])) <= FAR
    # The mean over uniform times of something that is not the weight.
    draws = np.asarray(jax.vmap(lambda u: law.correction(u, low, high) * jnp.cos(3 * u))(t), np.float64)
    want = (np.sin(3 * high) - np.sin(3 * low)) / (3 * (high - low))
    assert abs(draws.mean() - want) <= 5 * draws.std() / N**0.5


@pytest.mark.accuracy
def test_fit_sees_the_same_loss_with_less_variance(key):
    """The likelihood loss of a network that is zero, batch by batch: equal means, and a tenth of the variance."""
    model = frx.Model(
        lambda t, x, c: 0 * x, frx.VariancePreserving(), frx.Noise(), shape=(2,), dtype=np.float32, t_max=1 - 1e-4
    )
    data, n = jnp.ones((64, 2)), 200
    loss = frx.Matching(frx.loss.Likelihood(), times.Uniform())
    important = eqx.tree_at(lambda x: x.times, loss, times.LikelihoodTimes(model.schedule))

    @eqx.filter_jit
    def batches(loss):
        parameters, static = eqx.partition(model, eqx.is_inexact_array)
        task = Task(static, loss, optax.identity(), None, 64, 0.0)
        one = lambda k: task.batch_loss(parameters, data, None, k, training=True)[0]  # noqa: E731
        return jax.vmap(one)(jax.random.split(key, n))

    uniform, better = (np.asarray(batches(x), np.float64) for x in (loss, important))
    assert abs(uniform.mean() - better.mean()) <= 5 * ((uniform.var() + better.var()) / n) ** 0.5
    assert better.var() <= uniform.var() / 10
    # The weight g^2 / sigma^2 is the derivative of the log-SNR; the noise has mean square one.
    want = np.diff(model.schedule.log_snr(np.array([model.t_min, model.t_max])))[0] / (model.t_max - model.t_min)
    assert abs(better.mean() - want) <= 5 * better.std() / n**0.5


def test_importance_sampling_needs_a_finite_log_snr(key):
    with pytest.raises(ValueError, match=r"^The log-SNR is infinite at t_min=0\.0.*Within"):
        times.LikelihoodTimes(frx.Linear())(key, 8, 0.0, 0.9, jnp.float32)
    narrowed = times.Within(times.LikelihoodTimes(frx.Linear()), 0.1, 0.9)
    t = narrowed(key, N, 0.0, 1.0, jnp.float32)
    # Uniform in the log-SNR: its median is at the middle, and 0.1 and 0.9 are the ends.
    assert distance(np.log(t / (1 - t)) / np.log(9), lambda x: (x + 1) / 2) <= FAR
    assert np.allclose(narrowed.correction(0.5, 0.0, 1.0), 4 * np.log(9) / 0.8 / 8)


def test_log_normal_noise(key):
    """EDM's own law over the noise levels that its schedule has, and a logit-normal time on the straight path."""
    schedule = frx.EDM()
    t = times.LogNormal(schedule)(key, N, 0.0, 1.0, jnp.float32)
    ends = scipy.stats.norm.cdf((np.log([0.002, 80]) + 1.2) / 1.2)
    z = (np.log(np.asarray(schedule.sigma(t), np.float64)) + 1.2) / 1.2
    assert distance(z, lambda x: (scipy.stats.norm.cdf(x) - ends[0]) / (ends[1] - ends[0])) <= FAR
    t = times.LogNormal(frx.Linear(), -0.5, 0.8)(key, N, 0.0, 1.0, jnp.float32)
    logit = np.log(np.asarray(t, np.float64) / (1 - t))
    assert distance((logit - 0.5) / 0.8, scipy.stats.norm.cdf) <= FAR


def test_a_narrow_interval_must_meet_that_of_the_model(key):
    with pytest.raises(ValueError, match=r"nothing in common with the model's interval \[0.5, 1.0\]"):
        times.Within(times.Uniform(), 0.0, 0.4)(key, 8, 0.5, 1.0, jnp.float32)


def test_pairs_of_a_stratified_law_are_independent(key):
    """Whatever strata two times share: of two independent uniform times the gap has density 2 (1 - g)."""
    pairs = times.TimePairs(times.Stratified(), same=0.0)(key, N, 0.0, 1.0, jnp.float32)
    assert distance(pairs[:, 1] - pairs[:, 0], lambda g: 1 - (1 - g) ** 2) <= FAR


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (
            lambda: times.TimePairs(times.LikelihoodTimes(frx.Linear())),
            r"TimePairs takes a distribution on \[0, 1\], .*LikelihoodTimes",
        ),
        (lambda: times.TimePairs(same=2.0), r"same must lie in \[0, 1\]; got 2\.0"),
        (
            lambda: times.MixtureTimes(times.Uniform(), times.Uniform(), 3.0),
            r"fraction must lie in \[0, 1\]; got 3\.0\.",
        ),
    ],
)
def test_laws_that_do_not_fit_are_refused(build, text):
    with pytest.raises(ValueError, match="^" + text):
        build()
