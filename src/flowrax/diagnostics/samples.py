"""Two weighted samples, their blocks, and the error and floor of a distance between them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import numpy as np

from .._base.checks import check_finite
from .runs import host, normalised

NUM_BLOCKS = 10

Weighted = tuple[np.ndarray, np.ndarray]
"""Rows `(n, d)` and their weights `(n,)`, which sum to one."""


class Distance(eqx.Module):
    """A distance between the distributions of two samples.

    **Attributes:**

    - `value`: the distance.
    - `error`: its standard error, by leaving out each tenth of both samples in turn (jackknife).
    - `floor`: the root mean square value for two samples of these sizes from one and the same distribution, estimated
        from halves of the reference. A value near the floor is no evidence of a difference.
    """

    value: float
    error: float
    floor: float

    def __repr__(self) -> str:
        return f"Distance({self.value:.4g} +- {self.error:.2g}; about {self.floor:.2g} between equal distributions)"


class Sample(NamedTuple):
    """Rows in random order with normalised weights, and the block of each row."""

    x: np.ndarray
    """`(n, d)`."""
    weights: np.ndarray
    block: np.ndarray
    """`(n,)`, from 0 to `NUM_BLOCKS` - 1."""

    @property
    def ess(self) -> float:
        return float(1 / np.sum(self.weights**2))

    @property
    def weighted(self) -> Weighted:
        return self.x, self.weights

    def where(self, chosen: np.ndarray) -> Weighted:
        """The chosen rows and their weights, summing to one."""
        return self.x[chosen], self.weights[chosen] / self.weights[chosen].sum()


def read_sample(name: str, x: Any, log_weights: Any, rng: np.random.Generator) -> Sample:
    """A sample `(n, *event)` as rows; raises `ValueError` for too few rows, and rows of positive weight with NaN."""
    x = host(name, x)
    if x.ndim < 1 or len(x) < 2 * NUM_BLOCKS:
        raise ValueError(f"{name} has shape {x.shape} but at least {2 * NUM_BLOCKS} rows are needed for an error.")
    x = x.reshape(len(x), -1)
    logs = np.zeros(len(x)) if log_weights is None else host(f"log_weights of {name}", log_weights)
    if logs.shape != x.shape[:1] or np.any(np.isnan(logs) | (logs == np.inf)):
        raise ValueError(
            f"the log-weights of {name} must be {len(x)} numbers, one for each row, and minus infinity for weight zero."
        )
    x, logs = x[logs > -np.inf], logs[logs > -np.inf]
    check_finite(name, x)
    if len(x) < 2 * NUM_BLOCKS:
        raise ValueError(f"{name} has {len(x)} rows of positive weight; at least {2 * NUM_BLOCKS} are needed.")
    order = rng.permutation(len(x))
    return Sample(x[order], normalised(logs[order]), np.arange(len(x)) % NUM_BLOCKS)


def read_samples(
    x: Any, reference: Any, log_weights: Any, reference_log_weights: Any, rng: np.random.Generator
) -> tuple[Sample, Sample]:
    """Both samples; raises `ValueError` unless their rows have one length."""
    first = read_sample("x", x, log_weights, rng)
    second = read_sample("reference", reference, reference_log_weights, rng)
    if first.x.shape[1] != second.x.shape[1]:
        raise ValueError(f"the rows of x have {first.x.shape[1]} numbers but those of reference {second.x.shape[1]}.")
    return first, second


def jackknife(without: Callable[[int], float]) -> float:
    """The standard error of a statistic, given its value without each block."""
    values = np.array([without(block) for block in range(NUM_BLOCKS)])
    return float(np.sqrt((NUM_BLOCKS - 1) * np.mean((values - values.mean()) ** 2)))


def halves(rng: np.random.Generator, num: int = 8) -> list[np.ndarray]:
    """Some random halves of the blocks, `(NUM_BLOCKS,)` truth values each."""
    half = np.arange(NUM_BLOCKS) < NUM_BLOCKS // 2
    return [rng.permutation(half) for _ in range(num)]


def size_ratio(first: Sample, second: Sample) -> float:
    """The variance of a difference of means of the samples over that of two halves of the second."""
    return (1 / first.ess + 1 / second.ess) / (4 / second.ess)
