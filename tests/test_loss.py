"""Matching losses against their closed forms on the Gaussian oracle, and the equivalence of weights across targets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowrax as frx

MEAN = np.array([0.5, -1.0, 0.25])
FACTOR = np.array([[1.0, 0.0, 0.0], [0.4, 0.7, 0.0], [-0.3, 0.2, 0.5]])
COVARIANCE = FACTOR @ FACTOR.T
SCHEDULES = [frx.Linear(), frx.VariancePreserving(), frx.EDM()]
TARGETS = [frx.Data(), frx.Noise(), frx.Velocity(), frx.Score(), frx.V()]
FORMS = {frx.Data: "data", frx.Noise: "noise", frx.Velocity: "velocity", frx.Score: "score"}


def exact_network(oracle, schedule, target):
    """The minimiser of the loss: the expectation of the target given x."""

    def network(t, x, condition):
        prediction = oracle.model(schedule).predict(t, x)
        if isinstance(target, frx.V):
            return schedule.alpha(t) * prediction.noise - schedule.sigma(t) * prediction.data
        return getattr(prediction, FORMS[type(target)])

    return network


def mean_loss(loss, model, oracle, t, key, n=20_000):
    keys = jax.random.split(key, 2)
    x1 = oracle.sample(keys[0], (n,))
    x0 = jax.random.normal(keys[1], x1.shape, x1.dtype)
    values = jax.jit(jax.vmap(lambda x0, x1: loss(model, t, x0, x1)))(x0, x1)
    return float(jnp.mean(values)), float(jnp.std(values)) / np.sqrt(n)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_denoising_score_matching_equals_its_closed_form(schedule, x64, key):
    # E|s - s_conditional|^2 = tr Cov[n | x] / sigma^2, Cov[n | x] = I - sigma^2 C^-1, C = alpha^2 S + sigma^2 I.
    oracle = frx.oracle.Gaussian(MEAN, COVARIANCE)
    model = frx.Model(exact_network(oracle, schedule, frx.Score()), schedule, frx.Score(), shape=(3,))
    for t in (0.3, 0.8):
        alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
        total = alpha**2 * COVARIANCE + sigma**2 * np.eye(3)
        closed = np.trace(np.eye(3) - sigma**2 * np.linalg.inv(total)) / sigma**2 / 3
        value, error = mean_loss(frx.Matching(), model, oracle, jnp.asarray(t), key)
        assert abs(value - closed) < 4 * error


def squared_error_ratio(weight, schedule, alpha, sigma, t):
    """What each weight multiplies the squared error of the data prediction by, from the papers."""
    snr = (alpha / sigma) ** 2
    noise = sigma / alpha
    return {
        frx.loss.SNR: snr,
        frx.loss.MinSNR: min(snr, 5.0),
        frx.loss.EDMWeight: (noise**2 + 0.25) / (noise * 0.5) ** 2,
        frx.loss.Likelihood: float(schedule.diffusion(t)) ** 2 * (alpha / sigma**2) ** 2,
    }[type(weight)]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize(
    "weight",
    [frx.loss.SNR(), frx.loss.MinSNR(), frx.loss.EDMWeight(), frx.loss.Likelihood()],
    ids=lambda w: type(w).__name__,
)
def test_a_weight_is_the_same_objective_for_every_target(schedule, weight, x64, key):
    oracle = frx.oracle.Gaussian(MEAN, COVARIANCE)
    t, x0, x1 = jnp.asarray(0.6), jax.random.normal(key, (3,)), jnp.asarray([0.3, -0.2, 1.0])
    alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
    x = alpha * x1 + sigma * x0
    error = np.asarray(oracle.model(schedule).predict(t, x).data - x1)
    expected = squared_error_ratio(weight, schedule, alpha, sigma, t) * np.mean(error**2)
    for target in TARGETS:
        model = frx.Model(exact_network(oracle, schedule, target), schedule, target, shape=(3,))
        value = frx.Matching(weight=weight)(model, t, x0, x1)
        np.testing.assert_allclose(value, expected, rtol=1e-9)


def test_uniform_weight_is_the_mean_squared_error_of_the_target(x64):
    model = frx.Model(lambda t, x, c: jnp.zeros_like(x), frx.Linear(), shape=(2,), dtype=jnp.float64)
    x0, x1 = jnp.asarray([1.0, 2.0]), jnp.asarray([3.0, -1.0])
    np.testing.assert_allclose(frx.Matching()(model, jnp.asarray(0.2), x0, x1), (4.0 + 9.0) / 2)


def test_conditions_are_dropped_at_the_given_rate(key):
    model = frx.Model(lambda t, x, c: jnp.broadcast_to(c, x.shape), frx.Linear(), shape=(1,))
    loss = frx.Matching(condition_dropout=frx.loss.ConditionDropout(0.25))
    zero, one = jnp.zeros(1), jnp.ones(1)
    keys = jax.random.split(key, 4000)
    # The target is zero, so the loss is one where the condition (one) was kept.
    values = jax.vmap(lambda k: loss(model, jnp.asarray(0.5), zero, zero, one, key=k))(keys)
    assert abs(float(jnp.mean(values)) - 0.75) < 4 * np.sqrt(0.25 * 0.75 / 4000)
    assert float(loss(model, jnp.asarray(0.5), zero, zero, one)) == 1.0


@pytest.mark.parametrize("times", [frx.times.Uniform(), frx.times.Stratified(), frx.times.LogitNormal(0.3, 0.8)])
def test_times_have_their_law(times, key):
    from scipy import stats

    t = np.asarray(times(key, 4096, 0.2, 0.7, jnp.float32), np.float64)
    unit = (t - 0.2) / 0.5
    if isinstance(times, frx.times.LogitNormal):
        unit = stats.norm.cdf((np.log(unit) - np.log1p(-unit) - 0.3) / 0.8)
    # Kolmogorov-Smirnov at the level of one in ten thousand; a stratified draw is far more even than that.
    assert stats.kstest(unit, "uniform").pvalue > 1e-4


def test_labels_are_not_dropped_without_a_null():
    """Zero is a class; zeros of floating conditions are what they were."""
    with pytest.raises(ValueError, match="would replace integer labels by 0, which is a class; pass null="):
        frx.loss.ConditionDropout(0.1)({"label": jnp.asarray(3), "vector": jnp.ones(2)}, jax.random.key(0))
    dropped = frx.loss.ConditionDropout(1.0)((jnp.ones(2),), jax.random.key(0))
    np.testing.assert_array_equal(dropped[0], np.zeros(2))
    assert int(frx.loss.ConditionDropout(1.0, null=jnp.asarray(9))(jnp.asarray(3), jax.random.key(0))) == 9
    for probability in (-0.1, 5.0):
        with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
            frx.loss.ConditionDropout(probability)


def test_a_score_target_needs_independent_pairs():
    """Where the model is built, not where it is sampled."""
    with pytest.raises(ValueError, match="its coupling makes noise and data dependent"):
        frx.Model(lambda t, x, c: x, frx.VariancePreserving(), frx.target.Score(), shape=(1,), coupling=frx.ExactOT())
