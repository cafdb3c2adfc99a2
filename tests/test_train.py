"""Training reaches the closed form, resumes to the same bits, and fails in words."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flowrax as frx

MEAN = jnp.asarray([1.0, -1.0])
COVARIANCE = jnp.asarray([[1.0, 0.5], [0.5, 0.6]])


def small_model(key, **options):
    network = frx.nn.ResidualMLP((2,), key=key, width=32, depth=1, num_frequencies=4, frequency_scale=0.5, **options)
    return frx.Model(network, frx.Linear(), shape=(2,))


def gaussian_data(key, n=2000):
    return frx.oracle.Gaussian(MEAN, COVARIANCE).sample(key, (n,))


def leaves(model):
    return jax.tree.leaves(eqx.filter(model, eqx.is_array))


@pytest.mark.accuracy
def test_a_trained_flow_has_the_density_of_its_data(getkey):
    data, fresh = gaussian_data(getkey()), gaussian_data(getkey(), 200)
    result = frx.fit(
        small_model(getkey()), data[:1800], getkey(), num_steps=1500, validation=data[1800:], progress=False
    )
    value = frx.log_prob(result.model, fresh).value
    gap = frx.oracle.Gaussian(MEAN, COVARIANCE).log_prob(fresh) - value
    # The mean gap estimates the Kullback-Leibler divergence; fitting the five parameters of the Gaussian by maximum
    # likelihood to these data would cost 5 / (2 * 1800) = 0.0014.
    assert -0.02 < float(jnp.mean(gap)) < 0.03
    assert result.num_steps == 1500 and result.best_step in result.history["step"]
    assert (
        result.history["validation_loss"].min()
        == result.history["validation_loss"][list(result.history["step"]).index(result.best_step)]
    )


@pytest.mark.accuracy
def test_a_killed_run_resumes_to_the_same_bits(getkey, tmp_path):
    data, model, key = gaussian_data(getkey(), 300), small_model(getkey()), getkey()
    path = tmp_path / "run.ckpt"
    options = {
        "optimizer": optax.adam(1e-3),
        "validation": data[200:],
        "validate_every": 20,
        "batch_size": 16,
        "progress": False,
    }
    whole = frx.fit(model, data[:200], key, num_steps=60, **options)
    frx.fit(model, data[:200], key, num_steps=40, checkpoint=path, **options)
    resumed = frx.fit(model, data[:200], key, num_steps=60, checkpoint=path, **options)
    assert resumed.num_steps == 60
    for one, other in zip(leaves(whole.last_model), leaves(resumed.last_model), strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(leaves(whole.model), leaves(resumed.model), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(whole.history["train_loss"], resumed.history["train_loss"])
    with pytest.raises(ValueError, match="belongs to another run"):
        frx.fit(model, data[:200], key, loss=frx.Matching(weight=frx.loss.SNR()), checkpoint=path, **options)
    with pytest.raises(ValueError, match="belongs to another run"):
        frx.fit(model, data[:100], key, num_steps=60, checkpoint=path, **options)


def test_divergence_stops_at_the_last_good_weights(getkey):
    data = gaussian_data(getkey(), 100)
    options = {"num_steps": 40, "batch_size": 8, "validation": data, "validate_every": 20, "progress": False}
    with pytest.warns(UserWarning, match="fit took . of 40 steps. The loss became NaN"):
        result = frx.fit(small_model(getkey()), data, getkey(), optimizer=optax.sgd(1e30), **options)
    assert "became NaN or infinite" in result.stopped
    assert all(np.isfinite(leaf).all() for leaf in leaves(result.model))


def test_patience_stops_a_run_that_no_longer_improves(getkey):
    data = gaussian_data(getkey(), 100)
    result = frx.fit(
        small_model(getkey()),
        data,
        getkey(),
        optimizer=optax.set_to_zero(),
        num_steps=1000,
        batch_size=8,
        validation=data,
        validate_every=10,
        patience=3,
        progress=False,
    )
    assert result.num_steps == 40
    assert "No lower held-out loss in 3 validations" in result.stopped


def test_augmentation_and_conditions_reach_the_network(getkey):
    # The condition is the whole answer: data = condition, so a network that copies it has zero data error.
    class Copy(eqx.Module):
        scale: jax.Array

        def __call__(self, t, x, condition):
            return self.scale * condition

    model = frx.Model(Copy(jnp.ones(())), frx.Linear(), frx.Data(), shape=(2,))
    condition = jax.random.normal(getkey(), (64, 2))
    result = frx.fit(
        model,
        condition / 10,
        getkey(),
        condition=condition,
        optimizer=optax.set_to_zero(),
        augment=lambda key, row: 10 * row,
        num_steps=5,
        batch_size=8,
        progress=False,
    )
    assert result.history["train_loss"][-1] < 1e-12  # Rounding of 10 * (c / 10).


def test_data_errors_are_sentences(getkey):
    model = small_model(getkey())
    with pytest.raises(ValueError, match="data holds 1 NaN or infinite values; remove or impute them first"):
        frx.fit(model, jnp.asarray([[0.0, jnp.nan]]), getkey(), progress=False)
    with pytest.raises(ValueError, match=r"One row of data has shape \(3,\) but \(2,\) is expected"):
        frx.fit(model, jnp.zeros((4, 3)), getkey(), progress=False)


def test_checkpoints_round_trip_keys_and_refuse_strangers(getkey, tmp_path):
    tree = {"weights": jnp.arange(3.0), "key": getkey(), "name": "kept from like"}
    frx.save(tmp_path / "a", tree, {"step": 3})
    like = {"weights": jnp.zeros(3), "key": jax.random.key(0), "name": "kept from like"}
    read, metadata = frx.load(tmp_path / "a", like)
    np.testing.assert_array_equal(read["weights"], tree["weights"])
    assert jax.random.uniform(read["key"]) == jax.random.uniform(tree["key"])
    assert metadata == {"step": 3}
    with pytest.raises(ValueError, match=r"\['weights'\] is float32\[3\] in the file and float32\[4\] in `like`"):
        frx.load(tmp_path / "a", {"weights": jnp.zeros(4), "key": getkey(), "name": ""})
    (tmp_path / "b").write_bytes(b"something else\n")
    with pytest.raises(ValueError, match="is not a flowrax checkpoint"):
        frx.load(tmp_path / "b", like)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_training_with_an_exact_coupling_makes_a_model_without_a_score(getkey):
    data = gaussian_data(getkey(), 64)
    result = frx.fit(
        small_model(getkey()), data, getkey(), coupling=frx.ExactOT(), num_steps=3, batch_size=16, progress=False
    )
    with pytest.raises(ValueError, match="This model has no score"):
        frx.sample(result.model, getkey(), 2, dynamics=frx.ReverseSDE(), grid=4)


def test_exact_ot_is_the_cheapest_pairing(getkey):
    from scipy.optimize import linear_sum_assignment

    x0, x1 = jax.random.normal(getkey(), (32, 2)), jax.random.normal(getkey(), (32, 2))
    cost = np.sum((np.asarray(x0)[:, None] - np.asarray(x1)[None]) ** 2, axis=-1)
    best = cost[linear_sum_assignment(cost)].sum()
    paired = frx.ExactOT()(getkey(), x0, x1).x0
    assert {tuple(row) for row in np.asarray(paired)} == {tuple(row) for row in np.asarray(x0)}
    np.testing.assert_allclose(jnp.sum((paired - x1) ** 2), best, rtol=1e-5)


class Shift:
    """A flow whose default `repr` is its address."""

    def __call__(self, x0, key, condition):
        return x0 + 1


class WeightOfArray(frx.loss.AbstractWeight):
    values: jax.Array

    def __call__(self, target, schedule, t, s):
        return jnp.sum(self.values)


@pytest.mark.accuracy
def test_checkpoints_know_runs_by_values_and_not_by_addresses(getkey, tmp_path):
    data, model, key = gaussian_data(getkey(), 40), small_model(getkey()), getkey()
    options = {"num_steps": 2, "batch_size": 8, "progress": False, "checkpoint": tmp_path / "run.ckpt"}

    def run(*, values=(0.0, 1.0), angle=1.0):
        weighted = frx.Matching(weight=WeightOfArray(jnp.asarray(values)))
        given = frx.Model(model.network, frx.schedule.LearnedSNR(jax.random.key(0), -angle, 4.0, width=2), shape=(2,))
        return frx.fit(given, data, key, loss=weighted, coupling=frx.coupling.Reflow(Shift()), **options)

    first, other = Shift(), Shift()
    assert repr(first) != repr(other)
    run()
    assert run().num_steps == 2
    for changed in ({"values": (1.0, 1.0)}, {"angle": 2.0}):
        with pytest.raises(ValueError, match="belongs to another run"):
            run(**changed)


def test_what_fit_replaces_or_pairs_is_checked_against_the_model(getkey):
    network = small_model(getkey()).network
    score = frx.Model(network, frx.VariancePreserving(), frx.target.Score(), shape=(2,))
    data = gaussian_data(getkey(), 16)
    for options in ({"coupling": frx.ExactOT()}, {"x0": data}):
        with pytest.raises(ValueError, match="its coupling makes noise and data dependent"):
            frx.fit(score, data, getkey(), progress=False, **options)
    for times in (frx.times.LogNormal(frx.Linear()), frx.times.LikelihoodTimes(frx.Linear())):
        with pytest.raises(ValueError, match=r"loss\.times has the schedule Linear\(\) but the model has Variance"):
            frx.fit(score, data, getkey(), loss=frx.Matching(times=times), progress=False)
