"""Simulations as the diagnostics use them: true events, posterior draws with weights, and the number that failed.

Everything runs on the host in double precision: ranks and sorts of some million numbers gain nothing from JAX.
"""

import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from .._base.arrays import as_real
from .._base.checks import check_finite
from .._base.random import as_threefry
from .._base.typing import KeyLike, Shape
from .._base.wording import described

LEAST_SIMULATIONS = 10


class Runs(NamedTuple):
    """Successful simulations, each with its draws; coordinates of an event are columns."""

    truths: np.ndarray
    """`(s, q)`."""
    draws: np.ndarray
    """`(s, n, q)`, zero where the weight is zero because the draw failed."""
    weights: np.ndarray
    """`(s, n)`, summing to one in each row."""
    names: tuple[str, ...]
    """The name of each coordinate."""
    event: Shape
    """The shape of an event."""
    kept: np.ndarray
    """`(total,)`, whether each of the given simulations succeeded."""

    @property
    def ess(self) -> np.ndarray:
        """`(s,)`, the effective numbers of draws."""
        return 1 / np.sum(self.weights**2, axis=1)

    @property
    def num_failed(self) -> int:
        return int(np.sum(~self.kept))

    @property
    def by_coordinate(self) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """The name of each coordinate, with its values at the truths and at the draws."""
        return zip(self.names, self.truths.T, np.moveaxis(self.draws, 2, 0), strict=True)

    def pair(self, name: str, values: Any) -> tuple[np.ndarray, np.ndarray]:
        """A quantity at the truths and draws of the successful simulations, given for all, `(total,)` and `(total, n)`.

        Raises `ValueError` for other shapes and NaN.
        """
        if not isinstance(values, tuple | list) or len(values) != 2:
            raise ValueError(
                f"{name} must be a pair of arrays, at the truths and at the draws; got {described(values)}."
            )
        truth, draw = host(f"{name}[0]", values[0]), host(f"{name}[1]", values[1])
        want = (self.kept.size,), (self.kept.size, self.weights.shape[1])
        if (truth.shape, draw.shape) != want:
            raise ValueError(
                f"{name} has shapes {truth.shape} and {draw.shape} but {want[0]} and {want[1]} are expected."
            )
        truth, draw, counts = truth[self.kept], draw[self.kept], self.weights > 0
        if np.isnan(truth).any() or np.isnan(draw[counts]).any():
            raise ValueError(f"{name} is NaN at some truths or draws; give a number, which may be infinite, for each.")
        return truth, np.where(counts, draw, 0.0)


def read_runs(verb: str, truths: Any, draws: Any, log_weights: Any = None) -> Runs:
    """The arguments of a diagnostic as [`Runs`][]; a warning counts what failed.

    Raises `ValueError` for shapes that do not fit, truths that are not finite, and fewer than 10 good simulations.
    """
    truths, draws = host("truths", truths), host("draws", draws)
    if truths.ndim < 1 or draws.ndim != truths.ndim + 1 or (draws.shape[0], *draws.shape[2:]) != truths.shape:
        raise ValueError(
            f"draws must have shape (s, n, *event) where truths has (s, *event); got {draws.shape} and {truths.shape}."
        )
    check_finite("truths", truths)
    (total, num), event = draws.shape[:2], truths.shape[1:]
    truths, draws = truths.reshape(total, -1), draws.reshape(total, num, -1)
    log_weights = _log_weights(log_weights, (total, num))
    broken = ~np.all(np.isfinite(draws), axis=2)
    log_weights = np.where(broken, -np.inf, log_weights)
    kept = np.any(log_weights > -np.inf, axis=1) if num else np.zeros(total, bool)
    _tell(verb, broken, kept)
    weights = normalised(log_weights[kept])
    draws = np.where(broken[kept, :, None], 0.0, draws[kept])
    return Runs(truths[kept], draws, weights, coordinate_names(event), event, kept)


def _log_weights(log_weights: Any, shape: tuple[int, int]) -> np.ndarray:
    if log_weights is None:
        return np.zeros(shape)
    log_weights = host("log_weights", log_weights)
    if log_weights.shape != shape:
        raise ValueError(f"log_weights has shape {log_weights.shape} but {shape} is expected: one for each draw.")
    if np.any(np.isnan(log_weights) | (log_weights == np.inf)):
        raise ValueError("log_weights must be finite, or minus infinity for draws of weight zero; some are not.")
    return log_weights


def _tell(verb: str, broken: np.ndarray, kept: np.ndarray) -> None:
    """Warns of failed draws and simulations; raises `ValueError` if too few simulations remain."""
    if kept.sum() < LEAST_SIMULATIONS:
        raise ValueError(
            f"{verb} needs at least {LEAST_SIMULATIONS} simulations with a finite draw of positive weight; "
            f"got {int(kept.sum())} of {kept.size}."
        )
    parts = []
    if not kept.all():
        parts.append(f"{int(np.sum(~kept))} of {kept.size} simulations have no usable draw")
    if broken[kept].any():
        parts.append(f"{int(broken[kept].sum())} of {broken[kept].size} draws of the others are not finite")
    if parts:
        warnings.warn(
            f"{verb}: {' and '.join(parts)}; they are left out, and if posteriors fail where they are wrong the result "
            "looks better than it is. Mend the failures, for example with smaller steps.",
            stacklevel=5,
        )


def normalised(log_weights: np.ndarray) -> np.ndarray:
    """Weights that sum to one along the last axis."""
    weights = np.exp(log_weights - np.max(log_weights, axis=-1, keepdims=True))
    return weights / np.sum(weights, axis=-1, keepdims=True)


def host(name: str, x: Any) -> np.ndarray:
    """Real numbers as a NumPy array in double precision."""
    return np.asarray(as_real(name, x)).astype(np.float64)


def host_generator(key: KeyLike | None) -> np.random.Generator:
    """NumPy's generator seeded by a key. Default: `jax.random.key(0)`."""
    key = jax.random.key(0) if key is None else as_threefry(key)
    return np.random.default_rng(np.asarray(jax.random.key_data(key)))


def coordinate_names(event: Shape) -> tuple[str, ...]:
    """`x[0]`, `x[1]`, ... for the coordinates of an event, and `x` for a scalar."""
    if not event:
        return ("x",)
    return tuple(f"x[{', '.join(map(str, index))}]" for index in np.ndindex(*event))
