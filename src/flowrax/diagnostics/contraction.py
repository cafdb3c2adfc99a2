r"""The z-score $(\bar x - x^*) / s$ of the posterior mean, and the contraction $1 - s^2 / s_0^2$ of the variance.

A calibrated posterior has z-scores of mean 0 and mean square 1; a contraction near 0 says that the data did not inform,
one near 1 that they determine the coordinate [@schad2021toward].
"""

import equinox as eqx
import numpy as np

from .._base.arguments import checked
from .._base.checks import check_finite
from .._base.typing import BatchLike
from .runs import Runs, host, read_runs


class Contraction(eqx.Module):
    """The result of `z_scores_and_contraction`, for `s` simulations and `q` coordinates.

    **Attributes:**

    - `names`: the name of each coordinate.
    - `z_scores`: `(s, q)`, the posterior mean minus the truth, in posterior standard deviations.
    - `contraction`: `(s, q)`, one minus the posterior variance over the prior variance; negative where the posterior is
        wider than the prior.
    - `num_failed`: the number of simulations that have no usable draw and are left out.
    """

    names: tuple[str, ...]
    z_scores: np.ndarray
    contraction: np.ndarray
    num_failed: int

    def __repr__(self) -> str:
        width = max(map(len, self.names))
        failed = f", {self.num_failed} failed" if self.num_failed else ""
        rows = [
            f"  {name:{width}}  z-scores {z.mean():+.2f} +- {z.std():.2f}, contraction {c.mean():.2f} on average"
            for name, z, c in zip(self.names, self.z_scores.T, self.contraction.T, strict=True)
        ]
        return "\n".join([f"Contraction({len(self.z_scores)} simulations{failed})", *rows])


@checked
def z_scores_and_contraction(
    truths: BatchLike,
    draws: BatchLike,
    *,
    log_weights: BatchLike | None = None,
    prior_draws: BatchLike | None = None,
) -> Contraction:
    """The z-score of each posterior mean, and how much smaller than the prior variance the posterior variance is.

    **Arguments:**

    - `truths`, `draws`, `log_weights`: as in [`simulation_based_calibration`][]. Simulations with fewer than two
        effective draws count as failed, since they have no variance.
    - `prior_draws`: `(m, *event)`, draws from the prior, for its variance. Default: `truths`.

    **Returns:** [`Contraction`][].

    **Raises:** `ValueError` for shapes that do not fit, a coordinate of the prior without variance, or a posterior
        without variance.
    """
    return contraction_of_runs(read_runs("z_scores_and_contraction", truths, draws, log_weights), prior_draws)


def contraction_of_runs(runs: Runs, prior_draws: BatchLike | None) -> Contraction:
    """z-scores and contractions."""
    prior = runs.truths if prior_draws is None else host("prior_draws", prior_draws)
    if prior_draws is not None and (prior.shape[1:] != runs.event or len(prior) < 2):
        raise ValueError(f"prior_draws has shape {prior.shape} but (m, *event) with event {runs.event} is expected.")
    check_finite("prior_draws", prior)
    prior_variance = np.var(prior.reshape(len(prior), -1), axis=0, ddof=1)
    mean, variance = moments(runs.draws, runs.weights)
    flat = [name for name, bad in zip(runs.names, prior_variance <= 0, strict=True) if bad]
    if flat:
        raise ValueError(f"prior_draws do not vary in {', '.join(flat)}, so there is no variance to contract.")
    if not np.all(variance > 0):
        count = int(np.sum(np.any(~(variance > 0), axis=1)))
        raise ValueError(
            f"the draws of {count} simulations do not vary, so they have no z-scores; give each more draws."
        )
    z_scores = (mean - runs.truths) / np.sqrt(variance)
    return Contraction(runs.names, z_scores, 1 - variance / prior_variance, runs.num_failed)


def moments(draws: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The weighted means and unbiased variances of `draws (s, n, q)`, NaN for fewer than two draws."""
    mean = np.einsum("sn,snq->sq", weights, draws)
    square = np.einsum("sn,snq->sq", weights, (draws - mean[:, None]) ** 2)
    rest = 1 - np.sum(weights**2, axis=1)
    return mean, np.where(rest[:, None] > 1e-12, square / np.maximum(rest, 1e-12)[:, None], np.nan)
