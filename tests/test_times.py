"""Laws of training times against their distribution functions."""

import jax
import jax.numpy as jnp
import numpy as np

from flowrax import times

N = 4000
# The largest distance of two distribution functions is above this with probability 1e-6 (Kolmogorov).
FAR = 2.7 / N**0.5


def distance(draws, cdf):
    """Kolmogorov's distance of draws from a law."""
    x = np.sort(np.asarray(draws, np.float64).ravel())
    want, n = cdf(x), len(x)
    return max(np.max(np.arange(1, n + 1) / n - want), np.max(want - np.arange(n) / n))


def test_pairs_are_ordered_and_each_sample_tosses_its_own_coin(key):
    pairs = np.asarray(times.Pairs(same=0.75)(key, N, 0.2, 0.8, jnp.float32))
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
    pairs = times.Pairs(times.Beta(2.0, 1.0), same=1.0)(key, N, 0.0, 1.0, jnp.float32)
    assert distance(pairs[:, 1], lambda x: x**2) <= FAR


def test_antithetic_times_cancel_what_is_odd(key):
    t = times.Antithetic()(key, N, 0.25, 1.0, jnp.float32)
    assert jnp.allclose(jnp.mean(t), 0.625, atol=1e-6)
    assert distance(t, lambda x: (x - 0.25) / 0.75) <= FAR
    odd = times.Antithetic()(key, 7, 0.0, 1.0, jnp.float32)
    assert odd.shape == (7,) and np.allclose(odd[4:], 1 - odd[:3])


def test_laws_run_under_jit_in_half_precision(key):
    draw = jax.jit(lambda k: times.Pairs(times.LogitNormal())(k, 8, 0.0, 1.0, jnp.bfloat16))
    assert draw(key).dtype == jnp.bfloat16
