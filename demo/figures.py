"""The five figures of the demo and their captions."""

import numpy as np
from matplotlib.figure import Figure

from data import SIDE, SIZE
from flow import Likelihoods, Posteriors, Training
from flowrax import plot


def samples(x: np.ndarray, columns: int) -> tuple[Figure, str]:
    """Samples `x`, `(n, 64)`, with `n` a multiple of `columns`."""
    figure = plot.images(x.reshape(-1, columns, SIDE, SIDE), cell=0.36)
    return (
        figure,
        f"{len(x)} samples, not selected, each solved with its own adaptive steps. White is 0, black is 1.",
    )


def trajectory(x: np.ndarray, times: np.ndarray) -> tuple[Figure, str]:
    """Trajectories `x`, `(n, times, 64)`."""
    figure = plot.trajectory(x.reshape(*x.shape[:2], SIDE, SIDE), times, cell=0.8)
    caption = (
        "From noise (t = 0) to data (t = 1) along the probability flow. Noise has the mean and the standard deviation "
        "of each pixel of the training images, so pixels that are always white stay white."
    )
    return figure, caption


def calibration(values: Likelihoods) -> tuple[Figure, str]:
    """Log-likelihoods with the exact divergence against Hutchinson's estimates."""
    figure = plot.likelihood_calibration(values.exact, values.estimate, values.standard_error)
    caption = (
        f"Log-likelihood of the {len(values.exact)} test images: the exact divergence against {values.num_probes} "
        "random probes per image. Right: the errors of the estimate in units of its own standard error."
    )
    return figure, caption


def posterior(values: Posteriors, noise_std: float, rows: int) -> tuple[Figure, str]:
    """The truth, the observation and the draws of the first digits."""
    hidden = np.full((len(values.truth), SIZE - values.observed.shape[1]), np.nan)
    observed = np.concatenate([values.observed, hidden], axis=1)
    table = np.concatenate([values.truth[:, None], observed[:, None], values.draws], axis=1)[:rows]
    titles = ["truth", "observed", *(f"draw {i + 1}" for i in range(values.draws.shape[1]))]
    figure = plot.images(table.reshape(*table.shape[:2], SIDE, SIDE), column_titles=titles, cell=0.8)
    caption = (
        f"Held-out digits, observations of their upper half with noise of standard deviation {noise_std} on a scale "
        "from white 0 to black 1 (blue: not observed), and draws of the whole digit given the observation."
    )
    return figure, caption


def training(values: Training) -> tuple[Figure, str]:
    """The losses during training."""
    history = values.fit.history
    figure = plot.training_curve(
        history["step"], history["train_loss"], history["validation_loss"], best_step=values.fit.best_step
    )
    caption = (
        "Training loss (with dropout, averaged since the previous point) and validation loss (averaged weights, "
        "without dropout). The weights with the lowest validation loss are kept."
    )
    return figure, caption
