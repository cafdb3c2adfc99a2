"""Integers and dropped conditions reach the network of a density estimator as what they mean."""

import equinox as eqx
import jax
import numpy as np
import pytest

import flowrax as frx

KEY, RNG = jax.random.key(0), np.random.default_rng(0)
YEARS = RNG.integers(1950, 2020, size=800)
LABELS = RNG.integers(0, 5, size=800)


def fitted(condition, loss=None, num_steps=1, **options):
    data = RNG.normal(size=(800, 1))
    made = frx.DensityEstimator((1,), key=KEY, condition=condition[0], **options)
    result = made.fit(data, KEY, condition=condition, num_steps=num_steps, batch_size=8, progress=False, loss=loss)
    return result.estimator


def read(estimator, condition):
    """What the network reads: the flag, then number and one-hot labels."""
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(estimator._condition(condition))])


def test_many_integers_are_standardised_numbers():
    flag, number, *labels = read(fitted(YEARS), 1985)
    assert flag == 1 and not np.any(labels)
    np.testing.assert_allclose(number, (1985 - YEARS.mean()) / YEARS.std(), atol=1e-5)


def test_few_integers_are_one_hot_labels():
    for label in range(5):
        np.testing.assert_array_equal(read(fitted(LABELS), label), [1, 0, *np.eye(50)[label]])


@pytest.mark.parametrize(("labels", "size"), [(False, 2), (7, 9)])
def test_labels_can_be_chosen(labels, size):
    assert len(read(fitted(LABELS, labels=labels), 3)) == size


def test_strange_labels_are_refused():
    with pytest.raises(ValueError, match="condition holds the label 9, which did not occur in fit"):
        fitted(LABELS).log_prob(np.zeros((2, 1)), condition=9)
    with pytest.raises(ValueError, match="condition has 5 labels but 3 are allowed; pass labels="):
        fitted(LABELS, labels=3)


def test_a_dropped_condition_is_no_condition():
    """All that the network reads is zero, whereas the flag is one at every condition, the mean condition too."""
    estimator = fitted(LABELS, loss=frx.Matching(condition_dropout=frx.loss.ConditionDropout(0.5)))
    null = frx.loss.ConditionDropout(0.5).null_of(estimator._condition(2))
    assert not np.any(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(null)]))


def test_a_null_is_in_the_units_of_the_data():
    network = frx.nn.MLP((1,), key=KEY, condition_size=1, width=4, depth=1, num_frequencies=2)
    made = frx.DensityEstimator(frx.Model(network, frx.Linear(), shape=(1,)), condition=0.0)
    data, condition = RNG.normal(size=(40, 1)), 10 + 2 * RNG.normal(size=40)
    own = made.condition_standard.learned("condition", condition)
    loss = frx.Matching(condition_dropout=frx.loss.ConditionDropout(0.5, null=np.float32(-99)))
    this = eqx.tree_at(lambda e: e.condition_standard, made, own)
    null = this._dropping(loss).condition_dropout.null
    np.testing.assert_allclose(null, (-99 - condition.mean()) / condition.std(), rtol=1e-5)
    with pytest.raises(ValueError, match="would replace conditions by their mean"):
        bare = frx.Matching(condition_dropout=frx.loss.ConditionDropout(0.5))
        made.fit(data, KEY, condition=condition, loss=bare, num_steps=1, progress=False)


def test_labels_are_saved(tmp_path):
    estimator = fitted(LABELS)
    estimator.save(tmp_path / "a")
    again = frx.DensityEstimator((1,), key=jax.random.key(3), condition=0).load(tmp_path / "a")
    np.testing.assert_array_equal(read(again, 4), read(estimator, 4))
