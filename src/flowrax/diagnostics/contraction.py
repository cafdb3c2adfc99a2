r"""The z-score $(\bar x - x^*) / s$ of the posterior mean, and the contraction $1 - s^2 / s_0^2$ of the variance.

A calibrated posterior has z-scores of mean 0 and mean square 1; a contraction near 0 says that the data did not inform,
one near 1 that they determine the coordinate [@schad2021toward].
"""

import warnings

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
    - `z_scores`: `(s, q)`, the posterior mean minus the truth, in posterior standard deviations. NaN where the draws do
        not vary.
    - `contraction`: `(s, q)`, one minus the posterior variance over the prior variance; negative where the posterior is
        wider than the prior, NaN where the prior does not vary.
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
            f"  {name:{width}}  z-scores {_mean(z):+.2f}, root mean square {_mean(z**2) ** 0.5:.2f}; contraction "
            f"{_mean(c):.2f} on average"
            for name, z, c in zip(self.names, self.z_scores.T, self.contraction.T, strict=True)
        ]
        return "\n".join([f"Contraction({len(self.z_scores)} simulations{failed})", *rows])


def _mean(x: np.ndarray) -> float:
    """The mean of the numbers that are not NaN."""
    finite = x[np.isfinite(x)]
    return float(finite.mean()) if finite.size else float("nan")


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

    - `truths`, `draws`, `log_weights`: as in [`simulation_based_calibration`][].
    - `prior_draws`: `(m, *event)`, draws from the prior, for its variance. Default: `truths`.

    **Returns:** [`Contraction`][].

    **Raises:** `ValueError` for shapes that do not fit.
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
    good = np.where(variance > 0, variance, np.nan)
    _tell(runs, ~np.isfinite(good), prior_variance == 0)
    z_scores = (mean - runs.truths) / np.sqrt(good)
    contraction = 1 - variance / np.where(prior_variance > 0, prior_variance, np.nan)
    return Contraction(runs.names, z_scores, contraction, runs.num_failed)


def _tell(runs: Runs, flat: np.ndarray, constant: np.ndarray) -> None:
    """Warns of posteriors and priors without variance."""
    parts = []
    if constant.any():
        names = [name for name, is_constant in zip(runs.names, constant, strict=True) if is_constant]
        parts.append(f"the prior does not vary in {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}")
    if flat[:, ~constant].any():
        parts.append(f"the draws of {int(np.sum(np.any(flat[:, ~constant], axis=1)))} simulations do not vary")
    if parts:
        warnings.warn(
            f"z_scores_and_contraction: {' and '.join(parts)}; z-scores or contractions are NaN there. Leave out "
            "constant coordinates, and give a weighted posterior more draws.",
            stacklevel=5,
        )


def moments(draws: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The weighted means and unbiased variances of `draws (s, n, q)`, NaN for fewer than two draws."""
    mean = np.einsum("sn,snq->sq", weights, draws)
    square = np.einsum("sn,snq->sq", weights, (draws - mean[:, None]) ** 2)
    rest = 1 - np.sum(weights**2, axis=1)
    return mean, np.where(rest[:, None] > 1e-12, square / np.maximum(rest, 1e-12)[:, None], np.nan)
