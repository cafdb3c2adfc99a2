"""Semidiscrete transport: noise keeps its distribution, data their mass, and pairs are those of the whole."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

import flowrax as frx
from flowrax.coupling import Semidiscrete
from flowrax.train import fit_semidiscrete

LINE = jnp.asarray([[3.0], [-1.0], [0.5], [10.0], [-2.0], [1.0]])
OPTIONS = {"num_steps": 300, "batch_size": 256, "num_check": 4096, "progress": False}


def cells(masses, order):
    """The ends of the intervals of noise that belong to the data of a line, from left to right."""
    return scipy.stats.norm.ppf(np.concatenate([[0], np.cumsum(np.asarray(masses)[order])]))


def edges_of(coupling, x):
    """The datum of each of a fine grid of noise."""
    return np.asarray(coupling.rows(jax.random.key(0), x[:, None]))


@pytest.mark.accuracy
@pytest.mark.parametrize("weights", [None, np.asarray([1.0, 2.0, 0.0, 1.0, 3.0, 1.0])], ids=["equal", "weighted"])
def test_the_map_of_a_line_is_monotone(weights, getkey):
    """The cell of each datum is the interval between two quantiles of the normal distribution."""
    coupling = fit_semidiscrete(LINE, getkey(), weights=weights, **OPTIONS)
    masses = np.full(6, 1 / 6) if weights is None else weights / weights.sum()
    order = np.argsort(LINE[:, 0])
    x = jnp.linspace(-3, 3, 2001)
    found, ends = edges_of(coupling, x), cells(masses, order)
    want = order[np.searchsorted(ends, np.asarray(x), side="right") - 1]
    near = np.min(np.abs(np.asarray(x)[:, None] - ends[None]), axis=1) < 0.05
    np.testing.assert_array_equal(found[~near], want[~near])
    record = coupling.record
    assert record.chi_squared < record.floor + 0.01
    np.testing.assert_allclose(record.floor, ((masses > 0).sum() - 1) / 4096, rtol=1e-5)


@pytest.mark.accuracy
def test_pairs_within_labels_and_with_their_conditions(getkey):
    """Each label is a transport of its own, so that its noise is normal; a heavy condition acts like a label."""
    labels = np.asarray([0, 1, 0, 1, 0, 1])
    x0 = jax.random.normal(getkey(), (4000, 1))
    for extra in ({"labels": labels}, {"condition": 1.0 * labels, "condition_weight": 1e3}):
        coupling = fit_semidiscrete(LINE, getkey(), **extra, **OPTIONS)
        rows = np.asarray(coupling.rows(getkey(), x0))
        for label in (0, 1):
            own = np.flatnonzero(labels == label)
            noise = np.asarray(x0)[np.isin(rows, own), 0]
            # Kolmogorov and Smirnov at one in a thousand.
            assert scipy.stats.kstest(noise, "norm").pvalue > 1e-3
            order = own[np.argsort(np.asarray(LINE)[own, 0])]
            means = [np.mean(np.asarray(x0)[rows == row]) for row in order]
            ends = scipy.stats.norm.pdf(cells(np.full(3, 1 / 3), np.arange(3)))
            np.testing.assert_allclose(means, 3 * (ends[:-1] - ends[1:]), atol=0.12)


@pytest.mark.accuracy
def test_the_entropic_plan(x64, getkey):
    """Its draws have the frequencies of the softmin, whose masses are those of the data, in chunks or not."""
    coupling = fit_semidiscrete(np.asarray(LINE, np.float64), getkey(), reg=0.5, learning_rate=0.02, **OPTIONS)
    x = np.linspace(-6, 6, 4001)
    w = scipy.stats.norm.pdf(x)
    scores = (np.asarray(coupling.potentials) - (x[:, None] - np.asarray(LINE).T) ** 2) / 0.5
    softmin = scipy.special.softmax(scores, axis=1)
    np.testing.assert_allclose((w / w.sum()) @ softmin, 1 / 6, rtol=0.05)
    for size in (6, 4):
        chunked = eqx.tree_at(
            lambda c: c.potentials,
            Semidiscrete(jnp.asarray(LINE, float), coupling.prior, reg=0.5, chunk_size=size),
            coupling.potentials,
        )
        noise = jnp.full((20_000, 1), 0.3)
        counts = np.bincount(np.asarray(eqx.filter_jit(chunked.rows)(getkey(), noise)), minlength=6)
        score = (np.asarray(coupling.potentials) - (0.3 - np.asarray(LINE)[:, 0]) ** 2) / 0.5
        want = 20_000 * scipy.special.softmax(score)
        assert np.sum((counts - want) ** 2 / want) < scipy.stats.chi2.isf(1e-3, 5)


def test_chunks_do_not_change_pairs(getkey):
    """Far from the origin as well, and with the costs of a function."""
    data, potentials = jax.random.normal(getkey(), (23, 3)) + 1e4, jax.random.normal(getkey(), (23,))
    x0 = jax.random.normal(getkey(), (50, 3)) + 1e4
    cost = np.sum((np.asarray(x0, np.float64)[:, None] - np.asarray(data, np.float64)[None]) ** 2, axis=2)
    want = np.argmin(cost - np.asarray(potentials), axis=1)
    prior = frx.prior.Gaussian((3,))
    for size in (23, 10, 1):
        coupling = Semidiscrete(data, prior, potentials=potentials, chunk_size=size)
        np.testing.assert_array_equal(coupling.rows(getkey(), x0), want)
    pairs = coupling.pairs(getkey(), x0)
    np.testing.assert_array_equal(pairs.data_rows, want)
    np.testing.assert_allclose(pairs.x1, data[want], atol=2e-3)
    far = Semidiscrete(
        data - 1e4,
        prior,
        potentials=potentials,
        cost=lambda x1, x0, c: jnp.abs(x1 - x0.mean()).sum(1)[:, None] + jnp.zeros((1, len(x0))),
        chunk_size=10,
    )
    np.testing.assert_array_equal(
        far.rows(getkey(), x0[:1] - 1e4),
        np.argmin(np.abs(np.asarray(data - 1e4) - np.mean(np.asarray(x0[0] - 1e4))).sum(1) - potentials),
    )


@pytest.mark.accuracy
def test_a_million_rows_pair_in_little_memory(untyped):
    data, x0 = jax.ShapeDtypeStruct((1_000_000, 64), jnp.float32), jax.ShapeDtypeStruct((256, 64), jnp.float32)

    def rows(data, key, x0):
        return Semidiscrete(data, frx.prior.Gaussian((64,))).rows(key, x0)

    memory = jax.jit(rows).lower(data, jax.random.key(0), x0).compile().memory_analysis()
    assert memory.temp_size_in_bytes + memory.argument_size_in_bytes < 2**31


class Repeat(eqx.Module):
    """Predicts its condition, times a parameter."""

    factor: jax.Array

    def __call__(self, t, x, condition):
        return self.factor * condition


@pytest.mark.accuracy
def test_fit_takes_the_rows_of_the_coupling(tmp_path, getkey):
    """Conditions follow their rows; held-out rows are paired too; saved and loaded; potentials are not trained."""
    path, key = tmp_path / "coupling.frx", getkey()
    coupling = fit_semidiscrete(LINE, key, **OPTIONS)
    frx.save(path, coupling)
    coupling, _ = frx.load(path, fit_semidiscrete(LINE, getkey(), **OPTIONS | {"num_steps": 1, "tolerance": 1e9}))
    model = frx.Model(Repeat(jnp.ones(())), frx.Linear(), frx.Data(), shape=(1,), t_min=0.01)
    options = {"optimizer": optax.sgd(0.1), "num_steps": 4, "batch_size": 64, "validate_every": 4, "progress": False}
    held_out = {"validation": LINE[:4], "validation_condition": LINE[:4]}
    result = frx.fit(model, LINE, key, condition=LINE, coupling=coupling, **options, **held_out)
    assert np.all(result.history["train_loss"] == 0) and np.all(result.history["validation_loss"] == 0)
    np.testing.assert_array_equal(result.model.coupling.potentials, coupling.potentials)
    with pytest.raises(ValueError, match="has no score"):
        _ = result.model.predict(0.5, LINE[0], LINE[0]).score
    for bad, message in (
        (LINE[:5], "The coupling was fitted to 6 rows but data has 5"),
        (LINE[::-1], "The coupling was fitted to other data, or to the same rows in another order"),
    ):
        with pytest.raises(ValueError, match=message):
            frx.fit(model, bad, key, condition=bad, coupling=coupling, **options)
    other = frx.Model(Repeat(jnp.ones(())), frx.Linear(), shape=(1,), prior=frx.prior.Gaussian((1,), std=2.0))
    with pytest.raises(ValueError, match="The coupling was fitted for the prior"):
        frx.fit(other, LINE, key, condition=LINE, coupling=coupling, **options)


@pytest.mark.accuracy
def test_a_killed_run_resumes_to_the_same_bits(tmp_path, monkeypatch, getkey):
    key, options = getkey(), OPTIONS | {"checkpoint": tmp_path / "run.frx"}
    whole = fit_semidiscrete(LINE, key, **OPTIONS)
    from flowrax.train import potentials

    advance, calls = potentials._advance, []

    def killed(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return advance(*args)

    monkeypatch.setattr(potentials, "_advance", killed)
    with pytest.raises(KeyboardInterrupt):
        fit_semidiscrete(LINE, key, **options)
    resumed = fit_semidiscrete(LINE, key, **options)
    assert len(calls) == 4
    np.testing.assert_array_equal(resumed.potentials, whole.potentials)
    with pytest.raises(ValueError, match="belongs to another run"):
        fit_semidiscrete(LINE[::-1], key, **options)


def test_masses_that_are_off_are_reported(getkey):
    with pytest.warns(UserWarning, match=r"chi-squared of .* where sampling alone gives 0\.00122"):
        fit_semidiscrete(100 * LINE, getkey(), **OPTIONS | {"num_steps": 1})
    with pytest.raises(ValueError, match="weights must not be negative"):
        fit_semidiscrete(LINE, getkey(), weights=-np.ones(6), **OPTIONS)
