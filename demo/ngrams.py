r"""Interpolated Kneser-Ney smoothing with separate discounts for counts of one, two and more.

$$p_n(w | h) = \frac{\max(c(hw) - D_{c(hw)}, 0) + \lambda(h)\, p_{n-1}(w | h')}{c(h)},\qquad
\lambda(h) = \sum_j D_j\, N_j(h),$$

where $h'$ is $h$ without its first character, $N_j(h)$ counts the characters that follow $h$ exactly $j$ times (three
or more for the last), and below the highest order $c(hw)$ is the number of characters that precede $hw$ (Chen &
Goodman 1999, section 3). Below order one, $p_0$ is uniform.
"""

from typing import NamedTuple

import numpy as np


class Level(NamedTuple):
    """The counts of one order; grams and contexts are sorted integers in base `num_classes`, one digit a character."""

    grams: np.ndarray
    counts: np.ndarray
    discounts: np.ndarray
    """The discounts `D` of counts 0, 1, 2 and more."""
    contexts: np.ndarray
    totals: np.ndarray
    weights: np.ndarray
    """The discounted mass of each context, which the next lower order distributes."""


class NGrams(NamedTuple):
    """Probabilities of a character given the `order - 1` characters before it."""

    levels: tuple[Level, ...]
    num_classes: int

    def log2_probabilities(self, text: np.ndarray, reach: np.ndarray) -> np.ndarray:
        """The log-probability of every character, `(n,)`, given at most `reach` characters before it."""
        p = np.full(len(text), 1 / self.num_classes)
        for order, level in enumerate(self.levels, start=1):
            here = np.flatnonzero(reach[order - 1 :] >= order - 1) + order - 1
            codes = _codes(text, order, self.num_classes)[here - order + 1]
            p[here] = _interpolated(level, codes, self.num_classes, p[here])
        return np.log2(p)


def train(text: np.ndarray, order: int, num_classes: int) -> NGrams:
    """Counts the n-grams of a text."""
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
    frequency = [max(int(np.sum(counts == j)), 1) for j in (1, 2, 3, 4)]
    y = frequency[0] / (frequency[0] + 2 * frequency[1])
    # With few rare grams the estimate may lie outside [0, j].
    discounts = np.array([0.0, *(np.clip(j - (j + 1) * y * frequency[j] / frequency[j - 1], 0, j) for j in (1, 2, 3))])
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
