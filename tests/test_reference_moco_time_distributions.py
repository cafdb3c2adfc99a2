"""Laws of times against statistics of bionemo-moco's, of a million draws each."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowrax import times
from flowrax.times import Antithetic, Beta, Discrete, LogitNormal, MixtureTimes, Uniform, Within

REFERENCE = np.load(pathlib.Path(__file__).parent / "reference" / "moco_time_distributions.npz")
STATISTICS, N = "mean_std_min_max_q05_25_50_75_95", 100_000

LAWS = {
    "uniform": Uniform(),
    "uniform_0.2_0.8": Within(Uniform(), 0.2, 0.8),
    "sym": Antithetic(),
    "beta_2_1": Beta(2.0, 1.0),
    "beta_1p9_1_0.1_0.9": Within(Beta(1.9, 1.0), 0.1, 0.9),
    "logitnormal_0_1": LogitNormal(),
    "logitnormal_m1_0.5": LogitNormal(-1.0, 0.5),
    "mix_unif_beta_0.02": MixtureTimes(Uniform(), Beta(1.9, 1.0), 0.02),
}
DISCRETE = {
    "uniform_disc10": Discrete(Uniform(), 10),
    "beta_disc10": Discrete(Beta(2.0, 1.0), 10, nearest=True),
    "logitnormal_disc10": Discrete(LogitNormal(), 10, nearest=True),
    "sym_disc10": Discrete(Antithetic(), 10),
}


def statistics(t):
    """All of theirs but the two extremes, which say nothing at this number."""
    quantiles = np.quantile(t, [0.05, 0.25, 0.5, 0.75, 0.95])
    return np.array([t.mean(), t.std(), *quantiles])


@pytest.mark.parametrize("name", LAWS)
def test_statistics(name, key):
    t = np.asarray(LAWS[name](key, N, 0.0, 1.0, jnp.float32), np.float64)
    want = np.delete(REFERENCE[f"{name}/{STATISTICS}"], [2, 3])
    # 5 standard errors of a mean or of a quantile where the density is at least 0.25 (below, of the slowest one).
    assert np.max(np.abs(statistics(t) - want)) <= 5 * 2.2 / 2 / N**0.5


@pytest.mark.parametrize("name", ["uniform_0_0.5", "logitnormal_0_0.5max"])
def test_the_largest_time_counts_when_the_smallest_is_zero(name, key):
    """Theirs forgets it then: half of its times are beyond."""
    law, marker = (Uniform(), "(max ignored)") if "uniform" in name else (LogitNormal(), "(ignored)")
    t = np.asarray(Within(law, 0.0, 0.5)(key, N, 0.0, 1.0, jnp.float32), np.float64)
    forgotten = REFERENCE[f"{name}{marker}/{STATISTICS}"]
    assert forgotten[3] > 0.99 and t.max() <= 0.5
    assert np.max(np.abs(2 * statistics(t) - np.delete(forgotten, [2, 3]))) <= 5 * 2.2 / 2 / N**0.5


@pytest.mark.parametrize("name", DISCRETE)
def test_frequencies(name, key):
    index = np.asarray(jax.jit(lambda k: DISCRETE[name](k, N))(key))
    want = REFERENCE[f"{name}/freq"]
    got = np.bincount(index, minlength=10) / N
    assert len(got) == 10
    # 5 standard errors of ours and of theirs.
    assert np.max(np.abs(got - want) / np.sqrt(want * (1 - want))) <= 5 * (1 / N + 1e-6) ** 0.5


def test_index():
    got = times.time_to_index(jnp.asarray(REFERENCE["index/t"], float), 10)
    want = REFERENCE["index/n10"]
    # 0.05, 0.15 ... lie halfway within rounding.
    assert (np.abs(np.asarray(got) - want) <= (np.abs(REFERENCE["index/t"] * 9 % 1 - 0.5) < 1e-6)).all()
    assert times.time_to_index(-0.2, 10) == 0 and times.time_to_index(1.7, 10) == 9


def test_antithetic_draws_come_in_the_same_order(monkeypatch):
    """Theirs draws one more than half: the rest of an odd batch differs only in how many are mirrored."""
    drawn = jnp.asarray(REFERENCE["sym/rand_in"], float)
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape, *_: drawn[: shape[0]])
    got = Antithetic().unit(jax.random.key(0), 7, jnp.result_type(float))
    assert np.allclose(got, REFERENCE["sym/n7"])
