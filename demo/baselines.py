"""Density estimates by scikit-learn: a Gaussian mixture and a kernel density estimate, selected by validation."""

import warnings
from typing import NamedTuple

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity

from data import Digits, dequantise


class Baseline(NamedTuple):
    """A fitted density: the selected settings, and log-likelihoods of x in nats per image."""

    name: str
    choice: str
    validation: float
    test: np.ndarray


def _training_rows(digits: Digits, copies: int) -> np.ndarray:
    """The training images with several draws of the dequantisation noise; the estimates overfit a single draw."""
    return np.concatenate([digits.standardise(dequantise(digits.train, seed)) for seed in range(100, 100 + copies)])


def gaussian_mixture(digits: Digits, validation: np.ndarray, test: np.ndarray, *, quick: bool) -> Baseline:
    """Selects the number of components, covariance type and regularisation; `validation` and `test` are x."""
    rows = _training_rows(digits, 1 if quick else 4)
    grid = [("diag", 60, 0.03)] + [("full", 12, r) for r in (0.035, 0.06)]
    if not quick:
        grid += [("diag", 120, 0.03), ("full", 8, 0.035), ("full", 12, 0.02), ("full", 16, 0.035), ("full", 16, 0.05)]
    best: tuple[float, str, GaussianMixture] | None = None
    for kind, components, regularisation in grid:
        mixture = GaussianMixture(
            components, covariance_type=kind, reg_covar=regularisation, max_iter=30, random_state=0
        )
        with warnings.catch_warnings():
            # Stopping the fit early also regularises it; the validation score includes this effect.
            warnings.simplefilter("ignore", ConvergenceWarning)
            mixture.fit(rows)
        value = float(_log_density(digits, mixture, validation).mean())
        if best is None or value > best[0]:
            best = value, f"{components} {kind} covariances, regularisation {regularisation}", mixture
    assert best is not None
    return Baseline("Gaussian mixture", best[1], best[0], _log_density(digits, best[2], test))


def kernel_density(digits: Digits, validation: np.ndarray, test: np.ndarray, *, quick: bool) -> Baseline:
    """Selects the bandwidth of a Gaussian kernel in z; `validation` and `test` are x."""
    rows = _training_rows(digits, 1 if quick else 4)
    values = {}
    for bandwidth in (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6):
        kernel = KernelDensity(bandwidth=bandwidth).fit(rows)
        values[bandwidth] = float(_log_density(digits, kernel, validation).mean())
    bandwidth = max(values, key=values.__getitem__)
    kernel = KernelDensity(bandwidth=bandwidth).fit(rows)
    return Baseline("Kernel density", f"bandwidth {bandwidth}", values[bandwidth], _log_density(digits, kernel, test))


def _log_density(digits: Digits, fitted: GaussianMixture | KernelDensity, x: np.ndarray) -> np.ndarray:
    return digits.log_density_of_x(fitted.score_samples(digits.standardise(x)))
