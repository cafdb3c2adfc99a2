"""Reductions, masks and weights of losses; the fields of equilibrium matching; dispersion."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowrax as frx

REDUCTIONS = {"mean": frx.loss.Mean, "per node": frx.loss.PerNode, "sum": frx.loss.Sum}


@pytest.mark.parametrize("name", REDUCTIONS)
def test_a_masked_event_counts_as_the_event_without_its_masked_nodes(name, x64, key):
    error = jax.random.normal(key, (6, 3))
    mask = jnp.asarray([1, 0, 1, 1, 0, 1])
    masked = REDUCTIONS[name](mask=lambda condition: condition)
    short = error[np.array([0, 2, 3, 5])]
    np.testing.assert_allclose(masked(error, mask), REDUCTIONS[name]()(short), rtol=1e-12)
    # Whatever stands at a masked node, in the value and in the gradient.
    dirty = jnp.where(mask[:, None] == 1, error, jnp.nan)
    np.testing.assert_array_equal(masked(dirty, mask), masked(error, mask))
    gradient = jax.grad(lambda e: masked(e, mask))(dirty)
    assert np.all(np.isfinite(gradient))
    np.testing.assert_array_equal(gradient[np.array([1, 4])], 0)
    # Under vmap, each row with a mask of its own; a row without nodes has no error.
    masks = jnp.stack([mask, jnp.ones(6, int), jnp.zeros(6, int)])
    each = jax.vmap(masked)(jnp.stack([error] * 3), masks)
    np.testing.assert_allclose(each, [masked(error, mask), REDUCTIONS[name]()(error), 0.0], rtol=1e-12)


def test_masks_of_several_axes_and_wrong_ones(x64, key):
    error = jax.random.normal(key, (2, 3, 4))
    mask = jnp.asarray([[1, 0, 1], [0, 0, 1]])
    reduction = frx.loss.PerNode(mask=lambda condition: condition)
    expected = np.sum(np.asarray(error) ** 2 * np.asarray(mask)[..., None]) / 3
    np.testing.assert_allclose(reduction(error, mask), expected)
    with pytest.raises(ValueError, match=r"The mask has shape \(3, 2\), which does not start the event's shape"):
        reduction(error, mask.T)


def test_an_error_measured_in_another_target_is_the_error_of_that_prediction(x64, key):
    # Independent of gains: predictions converted by the table, and their errors taken there.
    keys = jax.random.split(key, 3)
    x0, x1, output = (jax.random.normal(k, (3,)) for k in keys)
    targets = [frx.Data(), frx.Noise(), frx.Velocity(), frx.Score(), frx.V()]
    for schedule in (frx.Linear(), frx.VariancePreserving(), frx.EDM()):
        t = jnp.asarray(0.37)
        s = schedule.scales(t)
        x = s.alpha * x1 + s.sigma * x0
        for predicted in targets:
            model = frx.Model(lambda t, x, c: output, schedule, predicted, shape=(3,), dtype=jnp.float64)
            data, noise = predicted.data(output, x, s), predicted.noise(output, x, s)
            for measured in targets:
                value = frx.Matching(weight=frx.loss.MeasuredIn(measured))(model, t, x0, x1)
                error = measured.from_pair(data, noise, s) - measured.from_pair(x1, x0, s)
                np.testing.assert_allclose(value, np.mean(error**2), rtol=1e-9)


def test_the_flow_loss_of_a_flow_is_finite_at_the_data(x64):
    weight, schedule = frx.loss.MeasuredIn(frx.Velocity()), frx.Linear()
    t = jnp.asarray([0.0, 1.0])
    np.testing.assert_array_equal(weight(frx.Velocity(), schedule, t, schedule.scales(t)), 1.0)
    np.testing.assert_array_equal(frx.loss.Truncated(0.8)(frx.Velocity(), schedule, t, schedule.scales(t)), [1, 0])


SCHEDULES = {"cosine": frx.Cosine(), "vp": frx.VariancePreserving(), "edm": frx.EDM()}


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_variational_weights(schedule, x64):
    t, h = jnp.asarray([0.2, 0.5, 0.7]), 1e-6
    s = schedule.scales(t)
    snr = [np.exp(np.asarray(schedule.log_snr(time))) for time in (t, t + h, t + 0.1)]
    for target in (frx.Data(), frx.Noise(), frx.Velocity()):
        on_data = (1 / target.gain(s)) ** 2
        steps = frx.loss.Variational(step=0.1)(target, schedule, t, s)
        np.testing.assert_allclose(steps, (snr[2] - snr[0]) * on_data, rtol=1e-9)
        # A difference quotient in h, exact to about h.
        smooth = frx.loss.Variational()(target, schedule, t, s)
        np.testing.assert_allclose(smooth, (snr[1] - snr[0]) / (2 * h) * on_data, rtol=1e-4)
        np.testing.assert_allclose(frx.loss.Variational(step=h)(target, schedule, t, s) / (2 * h), smooth, rtol=1e-4)


def test_denoising_score_matching_with_the_likelihood_weight(x64, key):
    # In its own variables: the mean of |z + sigma s|^2, and of |(g / sigma) z + g s|^2.
    schedule, t = frx.VariancePreserving(), jnp.asarray(0.4)
    x0, x1, output = (jax.random.normal(k, (3,)) for k in jax.random.split(key, 3))
    model = frx.Model(lambda t, x, c: output, schedule, frx.Score(), shape=(3,), dtype=jnp.float64)
    sigma, g = float(schedule.sigma(t)), float(schedule.diffusion(t))
    for weight, error in (
        (frx.loss.MeasuredIn(frx.Noise()), x0 + sigma * output),
        (frx.loss.Likelihood(), g / sigma * x0 + g * output),
    ):
        value = frx.Matching(weight=weight, reduction=frx.loss.Sum())(model, t, x0, x1)
        np.testing.assert_allclose(value, np.sum(error**2), rtol=1e-10)


def test_energies_give_their_gradients(x64, key):
    matrix = jnp.asarray([[1.0, 2.0], [0.0, 3.0]])
    x, t = jax.random.normal(key, (2,)), jnp.asarray(0.3)

    def linear(t, x, condition):
        return matrix @ x + t

    dot, norm = frx.nn.EnergyGradient(linear), frx.nn.EnergyGradient(linear, frx.nn.norm_energy)
    np.testing.assert_allclose(dot(t, x), -(matrix + matrix.T) @ x - 0.3, rtol=1e-12)
    np.testing.assert_allclose(norm(t, x), matrix.T @ (matrix @ x + 0.3), rtol=1e-12)
    own = frx.nn.EnergyGradient(lambda t, x, c: jnp.sum(x**4), lambda x, output: output)
    np.testing.assert_allclose(own(t, x), -4 * x**3, rtol=1e-12)
    blind = frx.nn.Timeless(dot)
    np.testing.assert_array_equal(blind(t, x), blind(2 * t, x))
    np.testing.assert_array_equal(blind(t, x), dot(jnp.zeros(()), x))


@pytest.mark.parametrize("schedule", [frx.Linear(), frx.Cosine()], ids=lambda s: type(s).__name__)
def test_equilibrium_target_is_the_decayed_velocity_of_any_path(schedule, x64, key):
    # The rate of the path by a difference quotient, and the decay by its definition.
    x0, x1 = jax.random.normal(key, (2, 3))
    for t, decay in ((0.3, 4.0), (0.9, 2.0)):
        path = frx.Affine(schedule).interpolate
        rate = (path(t + 1e-6, x0, x1) - path(t - 1e-6, x0, x1)) / 2e-6
        model = frx.Model(lambda t, x, c: decay * rate, schedule, shape=(3,), dtype=jnp.float64)  # noqa: B023
        assert float(frx.loss.EquilibriumMatching()(model, jnp.asarray(t), x0, x1)) < 1e-14


def test_equilibrium_matching_wants_a_network_blind_to_time(key):
    model = frx.Model(frx.nn.MLP((2,), key=key), frx.Linear(), shape=(2,))
    words = r"^EquilibriumMatching .* but MLP depends on the time; wrap it: Model.nn.Timeless"
    with pytest.raises(ValueError, match=words):
        frx.loss.EquilibriumMatching()(model, jnp.asarray(0.5), jnp.zeros(2), jnp.ones(2))


def test_dispersion(x64, key):
    z = jax.random.normal(key, (5, 2, 3))
    squares = np.sum((np.asarray(z)[:, None] - np.asarray(z)[None]) ** 2, axis=(2, 3))
    np.testing.assert_allclose(frx.loss.dispersion(z, 0.5), np.log(np.mean(np.exp(-squares / (6 * 0.5)))), rtol=1e-12)
    # Alike features far from the origin: nothing cancels.
    np.testing.assert_allclose(frx.loss.dispersion(jnp.ones((4, 3)) * 1e8), 0.0, atol=1e-12)


def test_a_model_that_is_blind_to_time_has_no_score(key):
    model = frx.Model(frx.nn.Timeless(lambda t, x, c: -x), frx.Linear(), shape=(2,))
    assert frx.sample(model, key, 2, grid=2).x.shape == (2, 2)
    refusal = "This model has no score: its network does not depend on time"
    with pytest.raises(ValueError, match=refusal):
        model.predict(jnp.asarray(0.5), jnp.zeros(2)).score  # noqa: B018
    for dynamics in (frx.ReverseSDE(), frx.Langevin(0.5, 1.0)):
        with pytest.raises(ValueError, match=refusal):
            frx.sample(model, key, 2, dynamics=dynamics, grid=2)
