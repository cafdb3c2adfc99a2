r"""Distances between two samples: sliced Wasserstein, maximum mean discrepancy, energy distance.

In one dimension $W_p^p = \int_0^1 |F^{-1}(u) - G^{-1}(u)|^p\,\mathrm{d}u$, which is exact for weighted samples, since
the quantile functions are constant between the cumulative weights; the sliced distance averages $W_p^p$ over random
directions [@bonneel2015sliced]. For a kernel $k$,
$D^2 = \mathbb{E}\,k(x, x') + \mathbb{E}\,k(y, y') - 2\,\mathbb{E}\,k(x, y)$ over different rows is unbiased: with a
Gaussian kernel it is the squared maximum mean discrepancy [@gretton2012kernel], with $k(x, y) = -\|x - y\|$ the energy
distance [@szekely2013energy]. Everything runs on the host in double precision.
"""

from collections.abc import Callable

import numpy as np

from .._base.arguments import checked
from .._base.checks import check_count, check_positive
from .._base.typing import BatchLike, Integer, KeyLike
from .runs import host_generator
from .samples import NUM_BLOCKS, Distance, Sample, Weighted, halves, jackknife, read_samples, size_ratio


@checked
def sliced_wasserstein(
    x: BatchLike,
    reference: BatchLike,
    *,
    log_weights: BatchLike | None = None,
    reference_log_weights: BatchLike | None = None,
    p: float = 1.0,
    num_projections: Integer = 100,
    key: KeyLike | None = None,
) -> Distance:
    r"""$\left(\mathbb{E}_\theta W_p^p(\theta^\top x, \theta^\top y)\right)^{1/p}$ over directions $\theta$.

    **Reference:** [@bonneel2015sliced].

    **Arguments:**

    - `x`: `(n, *event)`, independent rows.
    - `reference`: `(m, *event)`.
    - `log_weights`, `reference_log_weights`: `(n,)` and `(m,)`, log importance weights, normalised or not. Default:
        equal weights.
    - `p`: the order, at least 1. Default: 1.
    - `num_projections`: the number of random directions, the same for the error and the floor; one dimension needs
        none. Default: 100.
    - `key`: of the directions and splits. Default: `jax.random.key(0)`.

    **Returns:** [`Distance`][].

    **Raises:** `ValueError` for rows of different lengths, NaN, or fewer than 20 rows.
    """
    check_positive("p", p)
    if p < 1:
        raise ValueError(f"p must be at least 1; got {p}.")
    num_projections, rng = check_count("num_projections", num_projections), host_generator(key)
    first, second = read_samples(x, reference, log_weights, reference_log_weights, rng)
    dimension = first.x.shape[1]
    directions = rng.normal(size=(dimension, 1 if dimension == 1 else num_projections))
    directions /= np.linalg.norm(directions, axis=0)
    first, second = first._replace(x=first.x @ directions), second._replace(x=second.x @ directions)

    def between(one: Weighted, other: Weighted) -> float:
        return float(np.mean(_wasserstein_power(one, other, p)) ** (1 / p))

    floors = [between(second.where(half[second.block]), second.where(~half[second.block])) for half in halves(rng)]
    # The distance of two samples of one distribution falls with the square root of their sizes, for p = 1.
    scale = size_ratio(first, second) ** 0.5
    return Distance(
        value=between(first.weighted, second.weighted),
        error=jackknife(lambda b: between(first.where(first.block != b), second.where(second.block != b))),
        floor=float(np.sqrt(np.mean(np.square(floors))) * scale),
    )


@checked
def mmd(
    x: BatchLike,
    reference: BatchLike,
    *,
    log_weights: BatchLike | None = None,
    reference_log_weights: BatchLike | None = None,
    bandwidth: float | None = None,
    key: KeyLike | None = None,
) -> Distance:
    r"""The squared maximum mean discrepancy with the kernel $\exp(-\|x - y\|^2 / 2 h^2)$.

    The estimate is unbiased, so between samples of equal distributions it is often negative.

    **Reference:** [@gretton2012kernel].

    **Arguments:**

    - `x`, `reference`, `log_weights`, `reference_log_weights`: as in [`sliced_wasserstein`][].
    - `bandwidth`: $h$. Default: the median distance between different rows of the reference (of 1,000 at most).
    - `key`: of the splits. Default: `jax.random.key(0)`.

    **Returns:** [`Distance`][], of the squared discrepancy.

    **Raises:** `ValueError` as [`sliced_wasserstein`][], and if the median distance is zero.
    """
    rng = host_generator(key)
    first, second = read_samples(x, reference, log_weights, reference_log_weights, rng)
    if bandwidth is None:
        rows = second.x[:1000]
        bandwidth = float(np.median(_distances(rows, rows)[np.triu_indices(len(rows), 1)]))
        if bandwidth == 0:
            raise ValueError("half of the rows of reference are equal, so their median distance is 0; pass bandwidth=.")
    check_positive("bandwidth", bandwidth)
    return _discrepancy(first, second, lambda a, b: np.exp(-0.5 * (_distances(a, b) / bandwidth) ** 2), rng)


@checked
def energy_distance(
    x: BatchLike,
    reference: BatchLike,
    *,
    log_weights: BatchLike | None = None,
    reference_log_weights: BatchLike | None = None,
    key: KeyLike | None = None,
) -> Distance:
    r"""$2\,\mathbb{E}\|x - y\| - \mathbb{E}\|x - x'\| - \mathbb{E}\|y - y'\|$.

    The estimate is unbiased, so between samples of equal distributions it is often negative.

    **Reference:** [@szekely2013energy].

    **Arguments:**

    - `x`, `reference`, `log_weights`, `reference_log_weights`: as in [`sliced_wasserstein`][].
    - `key`: of the splits. Default: `jax.random.key(0)`.

    **Returns:** [`Distance`][].

    **Raises:** `ValueError` as [`sliced_wasserstein`][].
    """
    rng = host_generator(key)
    first, second = read_samples(x, reference, log_weights, reference_log_weights, rng)
    return _discrepancy(first, second, lambda a, b: -_distances(a, b), rng)


def _wasserstein_power(one: Weighted, other: Weighted, p: float) -> np.ndarray:
    """$W_p^p$ between the columns of two weighted samples."""
    (x, x_weights), (y, y_weights) = one, other
    if np.ptp(x_weights) == np.ptp(y_weights) == 0:
        # All columns have the same cumulative weights.
        return _quantile_distance(np.sort(x, axis=0), x_weights, np.sort(y, axis=0), y_weights, p)
    columns = []
    for index in range(x.shape[1]):
        by_x, by_y = np.argsort(x[:, index]), np.argsort(y[:, index])
        a, b = x[by_x, index : index + 1], y[by_y, index : index + 1]
        columns.append(_quantile_distance(a, x_weights[by_x], b, y_weights[by_y], p))
    return np.concatenate(columns)


def _quantile_distance(
    x: np.ndarray, x_weights: np.ndarray, y: np.ndarray, y_weights: np.ndarray, p: float
) -> np.ndarray:
    """The integral of $|F^{-1} - G^{-1}|^p$ for columns in order, over the pieces where both functions are constant."""
    x_ends, y_ends = np.cumsum(x_weights), np.cumsum(y_weights)
    ends = np.sort(np.concatenate([x_ends[:-1], y_ends[:-1], [1.0]]))
    lengths = np.diff(ends, prepend=0.0)
    middles = ends - lengths / 2
    at_x = np.minimum(np.searchsorted(x_ends, middles), len(x) - 1)
    at_y = np.minimum(np.searchsorted(y_ends, middles), len(y) - 1)
    return lengths @ np.abs(x[at_x] - y[at_y]) ** p


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Euclidean distances between the rows of two matrices, `(len(a), len(b))`."""
    squares = np.sum(a**2, axis=1)[:, None] + np.sum(b**2, axis=1) - 2 * a @ b.T
    return np.sqrt(np.maximum(squares, 0.0))


def _discrepancy(
    first: Sample, second: Sample, kernel: Callable[[np.ndarray, np.ndarray], np.ndarray], rng: np.random.Generator
) -> Distance:
    """$D^2$ of a kernel, from its sums over pairs of blocks."""
    centre = second.weights @ second.x
    first, second = first._replace(x=first.x - centre), second._replace(x=second.x - centre)
    within_first, within_second = _block_sums(first, first, kernel), _block_sums(second, second, kernel)
    across = _block_sums(first, second, kernel)
    masses = [np.array([s.weights[s.block == b].sum() for b in range(NUM_BLOCKS)]) for s in (first, second)]
    squares = [np.array([np.sum(s.weights[s.block == b] ** 2) for b in range(NUM_BLOCKS)]) for s in (first, second)]

    def mean_within(sums: np.ndarray, index: int, chosen: np.ndarray) -> float:
        mass = masses[index][chosen].sum()
        return sums[np.ix_(chosen, chosen)].sum() / (mass**2 - squares[index][chosen].sum())

    def mean_across(sums: np.ndarray, rows: tuple[int, np.ndarray], columns: tuple[int, np.ndarray]) -> float:
        mass = masses[rows[0]][rows[1]].sum() * masses[columns[0]][columns[1]].sum()
        return sums[np.ix_(rows[1], columns[1])].sum() / mass

    def of_blocks(chosen: np.ndarray) -> float:
        own = mean_within(within_first, 0, chosen) + mean_within(within_second, 1, chosen)
        return own - 2 * mean_across(across, (0, chosen), (1, chosen))

    def of_halves(half: np.ndarray) -> float:
        own = mean_within(within_second, 1, half) + mean_within(within_second, 1, ~half)
        return own - 2 * mean_across(within_second, (1, half), (1, ~half))

    floors = [of_halves(half) for half in halves(rng, 100)]
    return Distance(
        value=of_blocks(np.ones(NUM_BLOCKS, bool)),
        error=jackknife(lambda block: of_blocks(np.arange(NUM_BLOCKS) != block)),
        floor=float(np.sqrt(np.mean(np.square(floors))) * size_ratio(first, second)),
    )


def _block_sums(first: Sample, second: Sample, kernel: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    """Sums of the weighted kernel over pairs of blocks, without a row's pair with itself."""
    sums = np.zeros((NUM_BLOCKS, NUM_BLOCKS))
    for i in range(NUM_BLOCKS):
        for j in range(NUM_BLOCKS):
            rows, columns = first.block == i, second.block == j
            values = kernel(first.x[rows], second.x[columns])
            if first is second and i == j:
                np.fill_diagonal(values, 0.0)
            sums[i, j] = first.weights[rows] @ values @ second.weights[columns]
    return sums
