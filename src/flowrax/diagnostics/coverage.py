r"""Coverage: how often credible regions of probability $\alpha$ hold the truth: it should be $\alpha$.

A truth lies in the region of probability $\alpha$ if its credibility $c$ is at most $\alpha$. For a region of highest
density, $c$ is the posterior probability of a higher density than that of the truth; for a central interval,
$c = |2 u - 1|$ with the rank $u$ of the truth; for TARP, the probability of being closer to a random point than the
truth is [@lemos2023sampling]. In each case $c$ is uniform for a correct posterior.
"""

from typing import Any

import equinox as eqx
import numpy as np
from scipy import stats

from .._base.arguments import checked
from .._base.checks import check_between, check_count, check_finite, check_shape
from .._base.typing import BatchLike, Integer, KeyLike
from . import ecdf
from .ranks import randomised_ranks
from .runs import Runs, host, host_generator, read_runs


class Coverage(eqx.Module):
    r"""Expected coverage against credibility, for `q` kinds of regions.

    **Attributes:**

    - `names`: the name of each kind of region.
    - `credibility`: `(k,)`, the probabilities $\alpha$ of the regions.
    - `coverage`: `(q, k)`, the fraction of truths in these regions.
    - `bootstrap`: `(2, q, k)`, bounds of each coverage by resampled simulations, pointwise at `level`.
    - `band`: `(2, k)`, the limits within which all curves stay with probability `level` if the posterior is correct.
    - `level`: this probability.
    - `p_value`: `(q,)`, the exact p-value of the greatest deviation from the diagonal.
    - `area`: `(q,)`, the area between curve and diagonal at $\alpha > 1/2$: negative for a posterior that is too
        confident, positive for one that is too wide.
    - `p_area`: `(q,)`, the two-sided p-value of `area`, by the central limit theorem.
    - `num_simulations`: the number of simulations used.
    - `num_failed`: the number of simulations that have no usable draw and are left out.
    """

    names: tuple[str, ...]
    credibility: np.ndarray
    coverage: np.ndarray
    bootstrap: np.ndarray
    band: np.ndarray
    level: float
    p_value: np.ndarray
    area: np.ndarray
    p_area: np.ndarray
    num_simulations: int
    num_failed: int

    def __repr__(self) -> str:
        width = max(map(len, self.names))
        failed = f", {self.num_failed} failed" if self.num_failed else ""
        rows = [
            f"  {name:{width}}  area {area:+.3f} (p = {p_area:.2g}), greatest deviation p = {p:.2g}"
            for name, area, p_area, p in zip(self.names, self.area, self.p_area, self.p_value, strict=True)
        ]
        return "\n".join([f"Coverage({self.num_simulations} simulations{failed}; level {self.level:g})", *rows])


@checked
def expected_coverage(
    truths: BatchLike,
    draws: BatchLike,
    *,
    log_weights: BatchLike | None = None,
    log_prob: tuple[Any, Any] | None = None,
    level: float = 0.99,
    num_bootstrap: Integer = 200,
    key: KeyLike | None = None,
) -> Coverage:
    """The coverage of regions of highest density, or of the central intervals of each coordinate.

    Central intervals do not see a posterior that is biased but wide enough, and regions of highest density do not see
    an error that leaves the density's ranks alone.

    **Arguments:**

    - `truths`, `draws`, `log_weights`: as in [`simulation_based_calibration`][].
    - `log_prob`: the log-densities of the posterior estimate at the truths, `(s,)`, and at the draws, `(s, n)`, each
        given the data of its simulation. Default: none, for central intervals of each coordinate.
    - `level`: the level of the bands. Default: 0.99.
    - `num_bootstrap`: the number of resampled sets of simulations. Default: 200.
    - `key`: of the uniform numbers that spread ranks over their steps, and of the resampling. Default:
        `jax.random.key(0)`.

    **Returns:** [`Coverage`][].

    **Raises:** `ValueError` for shapes that do not fit, values that are not finite, and fewer than 10 simulations.
    """
    check_between("level", level, 0.0, 1.0)
    runs = read_runs("expected_coverage", truths, draws, log_weights)
    return coverage_of_runs(runs, log_prob, level, check_count("num_bootstrap", num_bootstrap, 2), host_generator(key))


@checked
def tarp(
    truths: BatchLike,
    draws: BatchLike,
    *,
    log_weights: BatchLike | None = None,
    references: BatchLike | None = None,
    level: float = 0.99,
    num_bootstrap: Integer = 200,
    key: KeyLike | None = None,
) -> Coverage:
    """Tests of accuracy with random points: the coverage of balls around random points.

    It needs no density and looks at all coordinates together. Coordinates are scaled to the range of the truths. Points
    that do not depend on the data cannot tell a posterior from the prior.

    **Reference:** [@lemos2023sampling].

    **Arguments:**

    - `truths`, `draws`, `log_weights`: as in [`simulation_based_calibration`][].
    - `references`: `(s, *event)`, the centre of the balls of each simulation; they may depend on its data but not on
        its truth. Default: uniform on the box that the truths span.
    - `level`, `num_bootstrap`: as in [`expected_coverage`][].
    - `key`: of the points, and as in [`expected_coverage`][].

    **Returns:** [`Coverage`][].

    **Raises:** `ValueError` for shapes that do not fit, values that are not finite, and fewer than 10 simulations.
    """
    check_between("level", level, 0.0, 1.0)
    runs = read_runs("tarp", truths, draws, log_weights)
    return tarp_of_runs(runs, references, level, check_count("num_bootstrap", num_bootstrap, 2), host_generator(key))


def coverage_of_runs(
    runs: Runs, log_prob: tuple[Any, Any] | None, level: float, num_bootstrap: int, rng: np.random.Generator
) -> Coverage:
    """The coverage of regions of highest density where `log_prob` is given, otherwise of central intervals."""

    def ranks(truth: np.ndarray, draws: np.ndarray) -> np.ndarray:
        return randomised_ranks(truth, draws, runs.weights, rng.uniform(size=len(truth)))

    if log_prob is not None:
        of_truths, of_draws = runs.pair("log_prob", log_prob)
        credibility, names = ranks(-of_truths, -of_draws)[:, None], ("highest density",)
    else:
        credibility = np.stack([np.abs(2 * ranks(truth, draw) - 1) for _, truth, draw in runs.by_coordinate], axis=1)
        names = runs.names
    return _coverage(credibility, names, runs, level, num_bootstrap, rng)


def tarp_of_runs(
    runs: Runs, references: BatchLike | None, level: float, num_bootstrap: int, rng: np.random.Generator
) -> Coverage:
    """The coverage of balls around random points."""
    low, high = runs.truths.min(axis=0), runs.truths.max(axis=0)
    scale = np.where(high > low, high - low, 1.0)
    if references is None:
        centres = rng.uniform(low, high, size=runs.truths.shape)
    else:
        centres = host("references", references)
        check_shape("references", centres.shape, (runs.kept.size, *runs.event))
        check_finite("references", centres)
        centres = centres.reshape(runs.kept.size, -1)[runs.kept]
    of_truths = np.linalg.norm((runs.truths - centres) / scale, axis=1)
    of_draws = np.linalg.norm((runs.draws - centres[:, None]) / scale, axis=2)
    closer = randomised_ranks(of_truths, of_draws, runs.weights, rng.uniform(size=len(of_truths)))
    return _coverage(closer[:, None], ("balls around random points",), runs, level, num_bootstrap, rng)


def _coverage(
    credibility: np.ndarray,
    names: tuple[str, ...],
    runs: Runs,
    level: float,
    num_bootstrap: int,
    rng: np.random.Generator,
) -> Coverage:
    """The curves of credibilities `(s, q)`, which are uniform for a correct posterior."""
    num, count = credibility.shape
    points, low, high = ecdf.band(num, 1 - (1 - level) / count)
    fractions = np.array([ecdf.counts_below(column, points) for column in credibility.T]) / num
    steps = np.diff(fractions, prepend=0.0, append=1.0, axis=1)
    resampled = np.cumsum(rng.multinomial(num, steps, size=(num_bootstrap, count)), axis=2)[..., :-1] / num
    # A simulation adds 1 - max(c, 1/2) to the area under the curve: if c is uniform, 3/8 with variance 5/192.
    area = np.mean(1 - np.maximum(credibility, 0.5), axis=0) - 3 / 8
    z = area / np.sqrt(5 / 192 / num)
    return Coverage(
        names=names,
        credibility=points,
        coverage=fractions,
        bootstrap=np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2], axis=0),
        band=np.array([low, high]) / num,
        level=level,
        p_value=np.array([ecdf.p_value(column) for column in credibility.T]),
        area=area,
        p_area=2 * stats.norm.sf(np.abs(z)),
        num_simulations=num,
        num_failed=runs.num_failed,
    )
