"""The density estimator in the units of the data: closed forms, learned densities, gradients, files."""

import functools

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

import flowrax as frx

MEAN, COVARIANCE = np.array([0.4, -0.7]), np.array([[0.9, 0.3], [0.3, 0.6]])
SLOPE = np.array([[0.5, -0.2], [0.1, 0.8]])
SHIFT, SCALE = np.array([300.0, -2.0]), np.array([25.0, 0.01])
CONDITION_SHIFT, CONDITION_SCALE = np.array([5.0, -40.0]), np.array([2.0, 10.0])
TIGHT = {"rtol": 1e-9, "atol": 1e-9}


class Exact(eqx.Module):
    """The exact velocity of N(mean + slope c, covariance), all in standardised units."""

    slope: jax.Array
    centred: frx.oracle.OracleModel

    def __call__(self, t, x, condition):
        mean = jnp.asarray(MEAN) + (0 if condition is None else self.slope @ condition)
        scales = self.centred.schedule.scales(t, x.dtype)
        return scales.alpha_rate * mean + self.centred.predict(t, x - scales.alpha * mean).velocity


def exact(conditional=False, schedule=None):
    """The estimator of a density that is known in closed form."""
    schedule = frx.Linear() if schedule is None else schedule
    network = Exact(jnp.asarray(SLOPE), frx.oracle.Gaussian(np.zeros(2), COVARIANCE).model(schedule))
    model = frx.Model(network, schedule, shape=(2,), dtype=jnp.float64, t_min=0.0, t_max=1.0)
    options = {"shift": SHIFT, "scale": SCALE}
    if conditional:
        options |= {"condition": np.zeros(2), "condition_shift": CONDITION_SHIFT, "condition_scale": CONDITION_SCALE}
    return frx.DensityEstimator(model, **options)


def law(condition=None):
    """In the units of the data, by hand."""
    z = np.zeros(2) if condition is None else (np.asarray(condition) - CONDITION_SHIFT) / CONDITION_SCALE
    mean = SHIFT + SCALE * (MEAN + SLOPE @ z)
    return multivariate_normal(mean, np.diag(SCALE) @ COVARIANCE @ np.diag(SCALE))


def points(num=5, condition=None):
    return law(condition).rvs(num, random_state=np.random.default_rng(0))


@pytest.mark.accuracy
def test_posteriors_are_in_the_units_of_the_data(x64, key):
    """By conditioning of a Gaussian: a linear measurement, the same as a function, and rows of values."""
    estimator, row, noise, values = exact(), np.array([[0.04, 20.0]]), 0.5, np.array([[-28.0], [-30.0]])
    prior = law()
    variance = float((row @ prior.cov @ row.T)[0, 0] + noise**2)
    gain = (prior.cov @ row.T)[:, 0] / variance
    means = prior.mean + (values - prior.mean @ row.T) * gain
    spread = np.sqrt(np.diag(prior.cov - np.outer(gain, gain) * variance))
    closed = norm.logpdf(values[:, 0], prior.mean @ row[0], np.sqrt(variance))
    linear = estimator.posterior(frx.LinearGaussian(row, frx.Batched(values), noise), key, 2000)
    assert linear.method == "Conjugate" and linear.x.shape == (2, 2000, 2)
    np.testing.assert_allclose(linear.log_evidence, closed, atol=3e-3)
    assert np.all(np.abs(linear.x.mean(axis=1) - means) < 4.5 * spread / np.sqrt(2000))
    np.testing.assert_allclose(linear.x.std(axis=1), np.tile(spread, (2, 1)), rtol=0.1)
    nonlinear = frx.NonlinearGaussian(lambda x: row @ x, values[0], noise)
    draws = estimator.posterior(nonlinear, key, 1000, grid=12)
    assert draws.method == "TemperedSMC" and abs(draws.log_evidence - closed[0]) < 4 * draws.log_evidence_error < 0.3
    assert np.all(np.abs(draws.weights @ draws.x - means[0]) < 0.2 * spread)
    np.testing.assert_allclose(draws.residual[0], (values[0] - row @ draws.x[0]) / noise, rtol=1e-6)


def test_log_prob_is_per_unit_of_the_data(x64):
    """The Jacobian of the standardisation is in it: here log(25 * 0.01) nats."""
    x = points()
    got = exact().log_prob(x, **TIGHT)
    np.testing.assert_allclose(got.value, law().logpdf(x), atol=1e-7)
    z = (x - SHIFT) / SCALE
    alone = frx.log_prob(exact().model, z, **TIGHT).value
    np.testing.assert_allclose(got.value - alone, -np.log(25.0 * 0.01), atol=1e-12)


def test_scale_counts_once_for_each_dimension_of_a_singular_prior(x64):
    """A network of no velocity has the law of its prior, here scaled by 2."""
    prior = frx.prior.CentredGaussian((3, 2))
    model = frx.Model(lambda t, x, c: jnp.zeros_like(x), frx.Linear(), shape=(3, 2), prior=prior)
    x = 2 * prior.draw(jax.random.key(0))[None]
    want = frx.prior.CentredGaussian((3, 2), std=2.0).log_density(x[0])
    estimator = frx.DensityEstimator(model, shift=0, scale=2)
    np.testing.assert_allclose(estimator.log_prob(x).value, [want], rtol=1e-9)


@pytest.mark.parametrize("learned", [True, False])
def test_digits_beyond_single_precision_are_not_lost(learned):
    """Data of spread 1e-6 at 59000, where neighbours in single precision are 4e-3 apart."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(200, 2))
    data, labels = 59000.123 + 1e-6 * z, 1e6 + 1e-4 * z[:, 0]
    given = {} if learned else dict(shift=59000.123, scale=1e-6, condition_shift=1e6, condition_scale=1e-4)
    network = frx.nn.MLP((2,), key=jax.random.key(0), condition_size=1)
    estimator = frx.DensityEstimator(frx.Model(network, frx.Linear(), shape=(2,)), condition=0.0, **given)
    rows, own = estimator._rows("data", "condition", data, labels)
    standard, other = estimator.standard.learned("data", rows), estimator.condition_standard.learned("c", own)
    mean, std = (data.mean(0), data.std(0)) if learned else (59000.123, 1e-6)
    np.testing.assert_allclose(standard.forward(rows), (data - mean) / std, atol=1e-3)
    np.testing.assert_allclose(
        other.forward(own), z[:, 0] if not learned else (z - z.mean(0))[:, 0] / z[:, 0].std(), atol=1e-3
    )
    fitted = eqx.tree_at(lambda e: (e.standard, e.condition_standard, e.fitted), estimator, (standard, other, True))
    got = fitted.log_prob(data[:3], condition=frx.Batched(labels[:3]), grid=4).value
    inner = frx.Batched(jnp.asarray(other.forward(own[:3])))
    want = frx.log_prob(fitted.model, (data[:3] - mean) / std, condition=inner, grid=4).value
    np.testing.assert_allclose(got, want - np.sum(np.log(np.broadcast_to(std, 2))), atol=2e-2)


@pytest.mark.accuracy
def test_conditions_are_standardised_and_batched(x64):
    density, conditions = exact(conditional=True), np.array([[5.0, -40.0], [9.0, -10.0], [0.0, -55.0]])
    x = np.stack([points(2, c)[0] for c in conditions])
    want = [law(c).logpdf(row) for row, c in zip(x, conditions, strict=True)]
    got = density.log_prob(x, condition=frx.Batched(conditions), **TIGHT).value
    np.testing.assert_allclose(got, want, atol=1e-7)
    one = density.log_prob(x[1:2], condition=conditions[1], **TIGHT).value
    np.testing.assert_allclose(one, want[1:2], atol=1e-7)


@pytest.mark.accuracy
def test_samples_carry_their_density_and_trajectory(x64):
    c = np.array([9.0, -10.0])
    options = {"condition": c, "with_log_prob": True, "saveat": dfx.SaveAt(t0=True, t1=True), **TIGHT}
    draws = exact(conditional=True).sample(jax.random.key(0), 4, **options)
    np.testing.assert_allclose(draws.log_prob, law(c).logpdf(draws.x), atol=1e-7)
    np.testing.assert_allclose(draws.trajectory[:, -1], draws.x, atol=1e-9)
    source = np.asarray(
        frx.log_prob(
            exact(conditional=True).model,
            (np.asarray(draws.x) - SHIFT) / SCALE,
            condition=(c - CONDITION_SHIFT) / CONDITION_SCALE,
            **TIGHT,
        ).x0
    )
    np.testing.assert_allclose((np.asarray(draws.trajectory[:, 0]) - SHIFT) / SCALE, source, atol=1e-7)


@pytest.mark.accuracy
@pytest.mark.parametrize("route", ["flow", "sde"])
def test_moments_of_samples(route, x64):
    """Within 5 standard errors, by the flow and by as many steps of the reverse SDE as were asked for."""
    sde = {"dynamics": frx.ReverseSDE(frx.dynamics.Constant(0.5), t_min=1e-3, t_max=0.999), "grid": 300}
    c = np.array([9.0, -10.0])
    draws = exact(conditional=True).sample(jax.random.key(1), 4000, condition=c, **(sde if route == "sde" else {}))
    z = (np.asarray(draws.x) - law(c).mean) / SCALE
    assert np.all(np.abs(z.mean(0)) <= 5 * z.std(0) / len(z) ** 0.5)
    products = z[:, :, None] * z[:, None, :]
    assert np.all(np.abs(products.mean(0) - COVARIANCE) <= 5 * products.std(0) / len(z) ** 0.5)
    if route == "sde":
        assert np.all(np.asarray(draws.stats.num_steps) == 300)


@pytest.mark.accuracy
@pytest.mark.parametrize("steps", [1, 3, 10])
def test_the_steps_asked_for_are_taken(steps, x64):
    """Euler on a linear field is a product of factors, one a step."""
    density = frx.DensityEstimator(
        frx.Model(lambda t, x, condition: -x, frx.Linear(), shape=(2,), dtype=jnp.float64), shift=SHIFT, scale=SCALE
    )
    x0 = np.array([[1.0, 2.0]])
    draws = density.sample(jax.random.key(0), 1, x0=x0, solver=dfx.Euler(), grid=steps)
    np.testing.assert_allclose(draws.x, SHIFT + SCALE * (1 - 1 / steps) ** steps * x0, rtol=1e-13)
    assert np.all(np.asarray(draws.stats.num_steps) == steps)
    sde = density.sample(jax.random.key(0), 2, dynamics=frx.ReverseSDE(t_min=0.1, t_max=0.9), grid=steps)
    assert np.all(np.asarray(sde.stats.num_steps) == steps)


@pytest.mark.accuracy
@pytest.mark.parametrize(
    "divergence",
    [frx.Hutchinson(8), frx.divergence.HutchPP(6), frx.divergence.XTrace(4)],
    ids=lambda d: type(d).__name__,
)
def test_every_divergence_with_a_condition_and_its_gradient(divergence, x64):
    """Conditions and gradients go with every estimator; exact ones here, as there are products enough for 2 dimensions
    (the mean over Hutchinson's probes is held to 5 of its own standard errors)."""
    density, c = exact(conditional=True), np.array([9.0, -10.0])
    x = jnp.asarray(points(4, c))

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def gradient_and_answer(x):
        answer = density.log_prob(x, condition=c, divergence=divergence, key=jax.random.key(3), **TIGHT)
        return jnp.sum(answer.value), answer

    gradient, got = gradient_and_answer(x)
    room = 5 * np.asarray(got.standard_error) + 1e-7
    assert np.all(np.abs(np.asarray(got.value) - law(c).logpdf(x)) <= room)
    want = -(np.asarray(x) - law(c).mean) @ np.linalg.inv(law(c).cov)
    # The field is affine, so what the probes see of its Jacobian does not depend on x.
    np.testing.assert_allclose(np.asarray(gradient) * SCALE, want * SCALE, atol=1e-6)


@pytest.mark.accuracy
def test_gradients_of_samples(x64):
    """A draw moves with the condition as the mean does: the flow of a Gaussian shifts with its mean."""
    density = exact(conditional=True)

    def total(condition, shift):
        moved = eqx.tree_at(lambda d: d.standard.shift, density, shift)
        return jnp.sum(moved.sample(jax.random.key(0), 3, condition=condition, **TIGHT).x, axis=0)

    by_condition, by_shift = jax.jit(jax.jacrev(total, (0, 1)))(jnp.array([9.0, -10.0]), jnp.asarray(SHIFT))
    want = 3 * np.diag(SCALE) @ SLOPE @ np.diag(1 / CONDITION_SCALE)
    np.testing.assert_allclose(by_condition, want, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(by_shift, 3 * np.eye(2), atol=1e-12)


@pytest.mark.accuracy
def test_sampling_and_latent_are_inverse_for_exploding_variance(x64):
    """The latent of a sample is the state it came from, of standard deviation sigma(0), not one."""
    density = exact(schedule=frx.VarianceExploding(0.01, 10.0))
    assert float(density.model.source.std) == pytest.approx(10.0)
    draws = density.sample(jax.random.key(0), 5, with_log_prob=True, **TIGHT)
    x0 = np.asarray(
        jax.vmap(lambda i: density.model.source.draw(jax.random.split(jax.random.fold_in(jax.random.key(0), i), 4)[0]))(
            jnp.arange(5)
        )
    )
    back = density.log_prob(draws.x, **TIGHT)
    np.testing.assert_allclose(back.x0, x0, atol=1e-5)
    np.testing.assert_allclose(back.value, draws.log_prob, atol=1e-5)


def small(size, condition_size=0, key=0):
    network = frx.nn.MLP(
        (size,), key=jax.random.key(key), condition_size=condition_size, width=32, depth=2, num_frequencies=4
    )
    return frx.Model(network, frx.Linear(), shape=(size,))


@pytest.mark.accuracy
def test_a_fitted_conditional_density(getkey):
    """y given m is Gaussian about a line: the mean gap of log-densities is that of a good fit, in the data's units."""
    m = 1000 + 200 * jax.random.normal(getkey(), (3000, 1))
    label = jax.random.bernoulli(getkey(), 0.5, (3000,)).astype(jnp.int32)
    center = 0.01 * m + 3.0 * label[:, None].astype(m.dtype)
    y = jnp.concatenate([center, -center], axis=1) + jnp.array([[0.5, 2.0]]) * jax.random.normal(getkey(), (3000, 2))
    condition = {"label": label, "m": m}
    estimator = frx.DensityEstimator(small(2, 2), condition={"label": 0, "m": jnp.zeros(1)})
    rows, held_out = slice(0, 2700), slice(2700, None)
    fitted = estimator.fit(
        y[rows],
        getkey(),
        condition=jax.tree.map(lambda leaf: leaf[rows], condition),
        validation=y[held_out],
        validation_condition=jax.tree.map(lambda leaf: leaf[held_out], condition),
        num_steps=2000,
        progress=False,
    )
    density = fitted.estimator
    np.testing.assert_allclose(density.standard.shift, np.mean(y[rows], 0), rtol=1e-5)
    np.testing.assert_allclose(density.condition_standard.scale["m"], np.std(m[rows], 0), rtol=1e-4)
    own = jax.tree.map(lambda leaf: leaf[held_out], condition)
    got = density.log_prob(y[held_out], condition=frx.Batched(own)).value
    error = np.asarray(y[held_out] - jnp.concatenate([center, -center], 1)[held_out]) / np.array([0.5, 2.0])
    truth = -0.5 * np.sum(error**2, 1) - np.log(2 * np.pi * 0.5 * 2.0)
    # A Gaussian about a line, fitted by maximum likelihood, has 10 parameters: 10 / (2 * 2700) = 0.002 nats.
    assert -0.03 < np.mean(truth - np.asarray(got)) < 0.08
    assert len(fitted.result.history["step"]) == 4


@pytest.mark.accuracy
def test_what_was_given_is_not_learned(getkey):
    data = jax.random.normal(getkey(), (50, 3)) + 7
    estimator = frx.DensityEstimator(small(3), scale=2.0)
    fitted = estimator.fit(data, getkey(), num_steps=1, progress=False).estimator
    np.testing.assert_allclose(fitted.standard.shift, np.mean(data, 0), rtol=1e-6)
    np.testing.assert_array_equal(fitted.standard.scale, np.full(3, 2.0))


@pytest.mark.accuracy
def test_augmentation_is_in_the_units_of_the_data(getkey):
    """Rounded data, blurred afresh each step: a blur in standardised units would be a hundred times as wide."""
    data = jnp.round(100 * jax.random.normal(getkey(), (50, 1)))
    seen = []

    def augment(key, row):
        jax.debug.callback(lambda value: seen.append(np.asarray(value)), row)
        return row + jax.random.uniform(key, row.shape) - 0.5

    frx.DensityEstimator(small(1)).fit(data, getkey(), num_steps=3, batch_size=4, augment=augment, progress=False)
    jax.effects_barrier()
    assert seen and set(np.concatenate(seen).ravel().tolist()) <= set(np.asarray(data).ravel().tolist())


@pytest.mark.accuracy
def test_files_round_trip_with_their_frequencies_and_refuse_another_structure(getkey, tmp_path):
    condition = {"m": np.zeros(1)}
    made = frx.DensityEstimator(small(2, 1, key=5), condition=condition)
    rows = {"m": jax.random.normal(getkey(), (20, 1))}
    data = jax.random.normal(getkey(), (20, 2))
    fitted = made.fit(data, getkey(), condition=rows, num_steps=2, progress=False).estimator
    fitted.save(tmp_path / "density.frx")
    options = {"condition": {"m": np.ones(1)}}
    for key in (5, 6):
        again = frx.DensityEstimator(small(2, 1, key=key), condition=condition).load(tmp_path / "density.frx")
        np.testing.assert_array_equal(fitted.log_prob(data, **options).value, again.log_prob(data, **options).value)
    with pytest.raises(ValueError, match="does not match this estimator: .*condition_size is 1 in the file and 0 in"):
        frx.DensityEstimator(small(2)).load(tmp_path / "density.frx")


@pytest.mark.accuracy
def test_it_passes_through_jit(x64):
    density, x = exact(), points()
    got = eqx.filter_jit(lambda density, x: density.log_prob(x, **TIGHT).value)(density, x)
    np.testing.assert_allclose(got, law().logpdf(x), atol=1e-7)


@pytest.mark.accuracy
def test_draws_beside_a_large_offset_are_in_double_precision(getkey):
    """Years in seconds, of a spread of one: single precision has steps of 128 there."""
    rows = 1.7e9 + np.random.default_rng(0).normal(size=(500, 1))
    fitted = frx.DensityEstimator(small(1)).fit(rows, getkey(), num_steps=20, progress=False).estimator
    draws = fitted.sample(getkey(), 200).x
    assert draws.dtype == np.float64 and len(np.unique(draws)) == 200
    # The standardised draws are those of the model, whose spread a short training leaves between the data and noise.
    assert abs(float(np.mean(draws)) - 1.7e9) < 1 and 0.3 < float(np.std(draws)) < 3


def test_a_spread_beyond_the_range_is_refused(getkey):
    rows = 1e-40 * np.random.default_rng(0).normal(size=(20, 1))
    with pytest.raises(ValueError, match="data has a standard deviation of .*e-41|data has a standard deviation of 1"):
        frx.DensityEstimator(small(1)).fit(rows, getkey(), num_steps=2, progress=False)
