r"""The digits as continuous data in $\mathbb{R}^{64}$: split, dequantisation, standardisation and units of likelihood.

A grey level $k \in \{0, \dots, 16\}$ becomes $x = (k + u) / 17$ with $u \sim U[0, 1)$, then $z = (x - m) / s$ with the
mean $m$ and standard deviation $s$ of each pixel of $x$ over the training images. Hence
$\log p(x) = \log p(z) - \sum_i \log s_i$.
"""

from typing import NamedTuple

import jax
import numpy as np

LEVELS = 17
SIDE = 8
SIZE = SIDE * SIDE


class Digits(NamedTuple):
    """Grey levels as float32 `(n, 64)`, in a fixed split, and the moments of the training images."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    mean: np.ndarray
    std: np.ndarray

    def standardise(self, x: np.ndarray | jax.Array) -> np.ndarray | jax.Array:
        """Maps x in [0, 1] to z."""
        return (x - self.mean) / self.std

    def restore(self, z: np.ndarray | jax.Array) -> np.ndarray | jax.Array:
        """Maps z to x in [0, 1]."""
        return self.mean + self.std * z

    def log_density_of_x(self, log_density_of_z: np.ndarray) -> np.ndarray:
        """Log-densities of x in nats per image, which include the Jacobian of the standardisation."""
        return np.asarray(log_density_of_z, np.float64) - float(np.sum(np.log(self.std, dtype=np.float64)))


def load(seed: int = 0) -> Digits:
    """scikit-learn's 1,797 digits of 8 x 8 pixels: 1,437 to train, 180 to validate, 180 to test."""
    from sklearn.datasets import load_digits

    levels = load_digits().data.astype(np.float32)
    levels = levels[np.random.default_rng(seed).permutation(len(levels))]
    train, validation, test = np.split(levels, [1437, 1617])
    # Moments over the noise u in closed form: u adds 1/2 to the mean of k + u and 1/12 to its variance.
    mean = (train.mean(axis=0, dtype=np.float64) + 1 / 2) / LEVELS
    std = np.sqrt(train.var(axis=0, dtype=np.float64) + 1 / 12) / LEVELS
    return Digits(train, validation, test, mean.astype(np.float32), std.astype(np.float32))


def dequantise(levels: np.ndarray, seed: int) -> np.ndarray:
    """Returns x in [0, 1), with the shape of `levels` and one draw of noise per pixel."""
    noise = np.random.default_rng(seed).random(levels.shape, dtype=np.float32)
    return (levels + noise) / np.float32(LEVELS)


def bits_per_dimension(log_density: np.ndarray) -> np.ndarray:
    r"""$-(\log p(x) - 64 \log 17) / (64 \log 2)$: bits per pixel of the grey levels.

    In expectation over the noise this bounds the discrete code length from above, since
    $\log P(k) = \log \int p((k + u) / 17)\, 17^{-64}\, \mathrm{d}u \ge \mathbb{E}_u \log p(x) - 64 \log 17$.
    """
    return -(np.asarray(log_density) - SIZE * np.log(LEVELS)) / (SIZE * np.log(2))
