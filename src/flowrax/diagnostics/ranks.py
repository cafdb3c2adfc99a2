r"""$u = (n F(x^*) + v) / (n + 1)$: the rank of the truth among $n$ draws, spread over its step by a uniform $v$.

$F$ is the empirical distribution function of the draws, and ties are split by the same $v$. If the truth and the draws
are exchangeable, $u$ is exactly uniform, so the normal scores $z = \Phi^{-1}(u)$ are independent and standard normal,
$\sqrt s\, \bar z$ is standard normal and $\sum_i (z_i - \bar z)^2$ is $\chi^2_{s - 1}$. A posterior whose standard
deviation is $r$ times the right one has scores of variance about $1 / r^2$.
"""

import functools

import numpy as np
from scipy import stats

# With more draws than this the scores are those of continuous ranks to within a percent.
_MANY_DRAWS = 1000


def randomised_ranks(truth: np.ndarray, draws: np.ndarray, weights: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Ranks in (0, 1) of `truth (s,)` among `draws (s, n)` with normalised weights, given uniform numbers `v (s,)`.

    With unequal weights `n` is the effective sample size, and the ranks are uniform only approximately.
    """
    below = np.sum(weights * (draws < truth[:, None]), axis=1)
    equal = np.sum(weights * (draws == truth[:, None]), axis=1)
    ess = 1 / np.sum(weights**2, axis=1)
    ranks = (ess * (below + v * equal) + v) / (ess + 1)
    return np.clip(ranks, 1e-12, 1 - 1e-12)


def location_test(ranks: np.ndarray) -> tuple[float, float]:
    """The mean of the normal scores, and the p-value of this mean; positive where the draws are too low."""
    z = stats.norm.ppf(ranks)
    mean = float(np.mean(z))
    return mean, float(2 * stats.norm.sf(abs(mean) * np.sqrt(len(z))))


def dispersion_test(ranks: np.ndarray) -> tuple[float, float]:
    """The variance of the normal scores, and its p-value; above one where the draws are too narrow."""
    z = stats.norm.ppf(ranks)
    num = len(z)
    total = float(np.sum((z - np.mean(z)) ** 2))
    tails = stats.chi2.cdf(total, num - 1), stats.chi2.sf(total, num - 1)
    return total / (num - 1), float(min(2 * min(tails), 1.0))


@functools.cache
def _dispersions(num_draws: int) -> tuple[np.ndarray, np.ndarray]:
    """Ratios of widths, and the mean squared normal scores of ranks among `num_draws` draws, increasing."""
    ratios = np.exp(np.linspace(np.log(20.0), np.log(0.05), 161))
    if num_draws > _MANY_DRAWS:
        return ratios, ratios**-2.0
    edges = stats.norm.ppf(np.arange(num_draws + 2) / (num_draws + 1))
    inner = edges[1:-1]
    # The integral of z^2 under the normal density up to each edge.
    integral = np.concatenate([[0.0], stats.norm.cdf(inner) - inner * stats.norm.pdf(inner), [1.0]])
    squares = (num_draws + 1) * np.diff(integral)
    # The truth in units of the draws' width is normal with standard deviation 1 / r. Beyond 8 its rank is extreme.
    nodes, step = np.linspace(-8, 8, 321, retstep=True)
    by_node = stats.binom.pmf(np.arange(num_draws + 1), num_draws, stats.norm.cdf(nodes)[:, None]) @ squares
    density = step * ratios[:, None] * stats.norm.pdf(ratios[:, None] * nodes)
    return ratios, density @ by_node + 2 * stats.norm.sf(8 * ratios) * squares[0]


def width_ratio(dispersion: float, num_draws: int) -> float:
    """The width of the draws over the right width that gives normal scores of this mean square."""
    ratios, dispersions = _dispersions(num_draws)
    return float(np.interp(dispersion, dispersions, ratios))


def smallest_width_error(num: int, num_draws: int, significance: float, power: float = 0.8) -> float:
    """The relative error of the width that the test of dispersion finds with probability `power`."""
    low, high = stats.chi2.isf([1 - significance / 2, significance / 2], num - 1)
    narrow = 1 - width_ratio(high / stats.chi2.isf(power, num - 1), num_draws)
    wide = width_ratio(low / stats.chi2.ppf(power, num - 1), num_draws) - 1
    return max(narrow, wide)
