r"""Weights of modes: whether the truth lies in a mode of the posterior as often as the draws do.

Take the truth and its $n$ draws together and cut them where two clusters separate best. Given this cut, which does not
know which of the $n + 1$ events is the truth, the truth lies in a cluster of $m$ events with probability
$m / (n + 1)$, and its rank within the cluster is uniform. The first statement tests the weights of the modes, and
the second their positions and widths, both whatever the cut.
"""

from typing import NamedTuple

import numpy as np
from scipy import stats

# Two clusters count as modes if their means are this many of their root mean square standard deviations apart. The two
# halves of a normal distribution are 2.6 apart, those of a uniform one 3.5.
_SEPARATION = 5.0
_LEAST_SHARE = 0.05
_LEAST_MEMBERS = 4


class ModeTest(NamedTuple):
    """Tests of the weights of two modes in one coordinate, over the simulations whose draws have two."""

    num: int
    """The number of simulations with two modes."""
    num_draws: int
    """The median number of draws in the mode of the truth."""
    ranks: np.ndarray
    """`(s,)`: ranks of the truths, within their modes where there are two."""
    upper: tuple[float, float, float]
    """The draws' mean weight of the upper mode, the fraction of truths in it, and the p-value of the difference."""
    larger: tuple[float, float, float]
    """The same for the mode of larger weight."""

    @property
    def p_value(self) -> float:
        """Of both comparisons (Bonferroni)."""
        return min(2 * min(self.upper[2], self.larger[2]), 1.0)


def mode_test(
    truth: np.ndarray, draws: np.ndarray, weights: np.ndarray, ranks: np.ndarray, v: np.ndarray
) -> ModeTest | None:
    """The tests of one coordinate, `truth (s,)` and `draws (s, n)`; None if two modes are seen in fewer than 30.

    `ranks` are those among all draws, and `v` are uniform numbers.
    """
    ess = 1 / np.sum(weights**2, axis=1)
    events = np.concatenate([truth[:, None], draws], axis=1)
    # With equal weights each of the n + 1 events has the same; unequal ones make all this approximate.
    share = np.concatenate([np.ones((len(truth), 1)), ess[:, None] * weights], axis=1) / (ess + 1)[:, None]
    cut, clear = _cuts(events, share)
    if clear.sum() < 30:
        return None
    truth, draws, weights, cut, ess = truth[clear], draws[clear], weights[clear], cut[clear], ess[clear]
    is_upper = truth > cut
    of_upper = np.sum(share[clear] * (events[clear] > cut[:, None]), axis=1)
    within = (draws > cut[:, None]) == is_upper[:, None]
    below = np.sum(ess[:, None] * weights * within * (draws < truth[:, None]), axis=1)
    equal = np.sum(ess[:, None] * weights * within * (draws == truth[:, None]), axis=1)
    members = np.sum(ess[:, None] * weights * within, axis=1)
    ranks = ranks.copy()
    ranks[clear] = np.clip((below + v[clear] * (equal + 1)) / (members + 1), 1e-12, 1 - 1e-12)
    is_larger = np.where(of_upper >= 0.5, is_upper, ~is_upper)
    of_larger = np.maximum(of_upper, 1 - of_upper)
    num, num_draws = int(clear.sum()), max(int(np.median(members).round()), 1)
    return ModeTest(num, num_draws, ranks, _compared(of_upper, is_upper), _compared(of_larger, is_larger))


def _compared(expected: np.ndarray, happened: np.ndarray) -> tuple[float, float, float]:
    z = np.sum(happened - expected) / np.sqrt(np.sum(expected * (1 - expected)))
    return float(np.mean(expected)), float(np.mean(happened)), float(2 * stats.norm.sf(abs(z)))


def _cuts(events: np.ndarray, share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The cut of each row that leaves the least variance within two clusters, and whether these are modes."""
    order = np.argsort(events, axis=1)
    x, w = np.take_along_axis(events, order, axis=1), np.take_along_axis(share, order, axis=1)
    x = x - np.average(x, axis=1, weights=w)[:, None]
    total, first, second = (np.cumsum(w * x**power, axis=1)[:, :-1] for power in (0, 1, 2))
    rest, last = np.maximum(1 - total, 1e-300), np.sum(w * x**2, axis=1)[:, None]
    # The means of both clusters around the common mean 0, and the variance within them.
    low, high = first / np.maximum(total, 1e-300), -first / rest
    best = np.argmax(np.where((total > 0) & (total < 1), total * low**2 + rest * high**2, -np.inf), axis=1)[:, None]

    def chosen(values: np.ndarray) -> np.ndarray:
        return np.take_along_axis(values, best, axis=1)[:, 0]

    spread_low = chosen(second / np.maximum(total, 1e-300) - low**2)
    spread_high = chosen((last - second) / rest - high**2)
    typical = np.sqrt(np.maximum(spread_low + spread_high, 1e-300) / 2)
    weight, place = chosen(total), best[:, 0]
    enough = np.minimum(place + 1, events.shape[1] - place - 1) >= _LEAST_MEMBERS
    clear = (chosen(high - low) > _SEPARATION * typical) & (np.minimum(weight, 1 - weight) >= _LEAST_SHARE) & enough
    ordered = np.take_along_axis(events, order, axis=1)
    middle = (np.take_along_axis(ordered, best, axis=1) + np.take_along_axis(ordered, best + 1, axis=1))[:, 0] / 2
    return middle, clear & (middle < np.take_along_axis(ordered, best + 1, axis=1)[:, 0])
