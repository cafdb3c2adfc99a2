r"""Interpolated Kneser-Ney smoothing, with discounts of its own for counts of one, two and more.

$$p_n(w | h) = \frac{\max(c(hw) - D_{c(hw)}, 0) + \lambda(h)\, p_{n-1}(w | h')}{c(h)},\qquad
\lambda(h) = \sum_j D_j\, N_j(h),$$

where $h'$ is $h$ without its first character, $N_j(h)$ counts the characters that follow $h$ exactly $j$ times (three
or more for the last), and below the highest order $c(hw)$ is the number of characters that precede $hw$ (Chen &
Goodman 1999, section 3). Nothing but uniform stands below the order one.
"""

from typing import NamedTuple

import numpy as np


class Level(NamedTuple):
    """The counts of one order; grams and their contexts are numbers to the base of the alphabet, sorted."""

    grams: np.ndarray
    counts: np.ndarray
    discounts: np.ndarray
    """`D` of counts 0, 1, 2 and more."""
    contexts: np.ndarray
    totals: np.ndarray
    weights: np.ndarray
    """The mass that a context leaves to the order below."""


class NGrams(NamedTuple):
    """Probabilities of a character given the `order - 1` before it."""

    levels: tuple[Level, ...]
    num_classes: int

    def log2_probabilities(self, text: np.ndarray, reach: np.ndarray) -> np.ndarray:
        """Of every character, `(n,)`, where `reach` says how many characters before it may be seen."""
        p = np.full(len(text), 1 / self.num_classes)
        for order, level in enumerate(self.levels, start=1):
            here = np.flatnonzero(reach[order - 1 :] >= order - 1) + order - 1
            codes = _codes(text, order, self.num_classes)[here - order + 1]
            p[here] = _interpolated(level, codes, self.num_classes, p[here])
        return np.log2(p)


def train(text: np.ndarray, order: int, num_classes: int) -> NGrams:
    """Counts a text."""
    levels = []
    for n in range(1, order + 1):
        if n == order:
            grams, counts = np.unique(_codes(text, n, num_classes), return_counts=True)
        else:
            longer = np.unique(_codes(text, n + 1, num_classes))
            grams, counts = np.unique(longer % num_classes**n, return_counts=True)
        levels.append(_level(grams, counts, num_classes))
    return NGrams(tuple(levels), num_classes)


def _level(grams: np.ndarray, counts: np.ndarray, num_classes: int) -> Level:
    seen = [max(int(np.sum(counts == j)), 1) for j in (1, 2, 3, 4)]
    y = seen[0] / (seen[0] + 2 * seen[1])
    # Where few grams are rare the estimate may leave [0, j].
    discounts = np.array([0.0, *(np.clip(j - (j + 1) * y * seen[j] / seen[j - 1], 0, j) for j in (1, 2, 3))])
    contexts, start = np.unique(grams // num_classes, return_index=True)
    totals = np.add.reduceat(counts, start)
    weights = np.add.reduceat(discounts[np.minimum(counts, 3)], start)
    return Level(grams, counts, discounts, contexts, totals, weights)


def _codes(text: np.ndarray, order: int, num_classes: int) -> np.ndarray:
    codes = np.zeros(len(text) - order + 1, np.int64)
    for j in range(order):
        codes = codes * num_classes + text[j : len(text) - order + 1 + j]
    return codes


def _interpolated(level: Level, codes: np.ndarray, num_classes: int, below: np.ndarray) -> np.ndarray:
    counts = _find(level.grams, codes, level.counts)
    contexts = codes // num_classes
    totals, weights = _find(level.contexts, contexts, level.totals), _find(level.contexts, contexts, level.weights)
    kept = counts - level.discounts[np.minimum(counts, 3)]
    return np.where(totals > 0, (kept + weights * below) / np.maximum(totals, 1), below)


def _find(keys: np.ndarray, wanted: np.ndarray, values: np.ndarray) -> np.ndarray:
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0)
