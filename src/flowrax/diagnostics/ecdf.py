r"""$\Pr\{l_k \le N(z_k) \le u_k \text{ for all } k\}$, where $N(z)$ is the number of $s$ uniform numbers below $z$.

This is the probability that the empirical distribution function of uniform ranks stays in a band
[@sailynoja2022graphical]. Each edge of the band is a binomial quantile of the same tail probability $\gamma / 2$, and
$\gamma$ is chosen for the simultaneous level. $N$ is a Poisson process that is conditioned to reach $s$ at $z = 1$, so
each step of the recursion is a convolution, and the probability is exact.
"""

import functools

import numpy as np
from scipy import stats

MOST_POINTS = 100


def evaluation_points(num: int) -> np.ndarray:
    """The points $z_k$ at which the distribution function of `num` ranks is compared, evenly spaced within (0, 1)."""
    cells = max(min(num, MOST_POINTS), 2)
    return np.arange(1, cells) / cells


def counts_below(ranks: np.ndarray, points: np.ndarray) -> np.ndarray:
    """How many of the ranks are at most each point."""
    return np.searchsorted(np.sort(ranks), points, side="right")


def limits(gamma: float, num: int, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r"""The least and the largest counts whose tail probabilities exceed $\gamma / 2$."""
    tail = gamma / 2 * (1 + 1e-9)
    return stats.binom.ppf(tail, num, points).astype(int), num - stats.binom.ppf(tail, num, 1 - points).astype(int)


def probability_within(low: np.ndarray, high: np.ndarray, num: int, points: np.ndarray) -> float:
    """The probability that the counts of `num` uniform numbers stay within `low` and `high` at evenly spaced points."""
    step = stats.poisson.pmf(np.arange(num + 1), num / (len(points) + 1))
    mass, first = np.ones(1), 0
    for least, most in zip(low, high, strict=True):
        if most < least:
            return 0.0
        reached = np.convolve(mass, step[: most - first + 1])[: most - first + 1]
        # Counts never decrease, so the new least count may be below the old one only in an empty part.
        skipped = max(least - first, 0)
        mass, first = reached[skipped:], first + skipped
    last = np.sum(mass * step[num - first - np.arange(len(mass))])
    return float(last / stats.poisson.pmf(num, num))


@functools.cache
def band(num: int, level: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    r"""The points and the counts between which all of them lie with probability `level`, or slightly more."""
    points = evaluation_points(num)
    low, high = np.log((1 - level) / (4 * len(points))), np.log(1 - level)
    for _ in range(20):
        middle = (low + high) / 2
        if probability_within(*limits(float(np.exp(middle)), num, points), num, points) >= level:
            low = middle
        else:
            high = middle
    return points, *limits(float(np.exp(low)), num, points)


def p_value(ranks: np.ndarray) -> float:
    r"""The probability that uniform ranks leave a band which these ranks only just touch.

    The statistic is the smallest pointwise tail probability of the counts, whose exact distribution is known. The
    p-value is at least 1e-12, the accuracy of the recursion.
    """
    num = len(ranks)
    points = evaluation_points(num)
    counts = counts_below(ranks, points)
    tails = np.minimum(stats.binom.cdf(counts, num, points), stats.binom.sf(counts - 1, num, points))
    gamma = min(float(2 * np.min(tails)), 1.0)
    return float(np.clip(1 - probability_within(*limits(gamma, num, points), num, points), 1e-12, 1.0))
