r"""Simulation-based calibration: under a correct posterior the rank of the truth among the draws is uniform.

If $x^* \sim p(x)$ and $y \sim p(y | x^*)$, then $x^*$ and draws from $p(x | y)$ are exchangeable, and so is any
function of them [@talts2018validating]. Three tests look for deviations of each quantity: of the mean and the variance
of the normal scores of the ranks, whose null distributions are known exactly (`ranks.py`), and of the empirical
distribution function, which has a simultaneous band (`ecdf.py`).
"""

import enum
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._base.arguments import checked
from .._base.checks import check_between, check_count
from .._base.typing import BatchLike, Event, Integer, KeyLike
from . import ecdf
from .ranks import dispersion_test, location_test, randomised_ranks, smallest_width_error, width_ratio
from .runs import LEAST_SIMULATIONS, Runs, host, host_generator, read_runs

Quantity = Callable[[Event], Any] | tuple[Any, Any]
"""A function of one event, or its values `(s,)` for the truths and `(s, n)` for the draws."""

Column = tuple[str, np.ndarray, np.ndarray]
"""The name of a quantity, and its values `(s,)` at the truths and `(s, n)` at the draws."""

TESTS = 3
"""The number of tests for each quantity."""

_MOST_SHOWN = 20


class Verdict(enum.Enum):
    """What is wrong with a posterior's distribution of one quantity."""

    TOO_NARROW = "too narrow"
    TOO_WIDE = "too wide"
    BIASED_LOW = "biased low"
    BIASED_HIGH = "biased high"
    NOT_UNIFORM = "of another shape than the truths'"


class Calibration(eqx.Module):
    """The result of `simulation_based_calibration`, for `q` quantities.

    **Attributes:**

    - `names`: the name of each quantity.
    - `ranks`: `(s, q)`, the rank of each truth among its draws, between 0 and 1 and uniform for a correct posterior.
    - `num_draws`: the median effective number of draws for each truth.
    - `num_failed`: the number of simulations that have no usable draw and are left out.
    - `level`: the probability that a correct posterior passes, over all quantities and tests together.
    - `bias`: `(q,)`, the mean of the posterior minus the truth, in posterior standard deviations: the negative mean
        of the normal scores of the ranks.
    - `width_ratio`: `(q,)`, the posterior's width over the width that would make the ranks uniform, as it is for
        Gaussian posteriors. Errors of the mean that vary from simulation to simulation count as a posterior that is
        too narrow.
    - `p_location`: `(q,)`, the p-value of the mean of the normal scores.
    - `p_dispersion`: `(q,)`, the p-value of their variance.
    - `p_ecdf`: `(q,)`, the p-value of the distribution function of the ranks.
    - `p_value`: `(q,)`, the p-value of each quantity: three times the smallest (Bonferroni), at most 1.
    - `points`: `(k,)`, where the distribution function of the ranks is compared.
    - `ecdf_difference`: `(q, k)`, the empirical distribution function of the ranks minus the uniform one.
    - `band`: `(2, k)`, the limits within which all `q` curves of a correct posterior stay with probability `level`.
    - `verdicts`: for each quantity, what is wrong at this level; empty where nothing was found.
    - `smallest_width_error`: the relative error of a width that the test of dispersion finds with probability 0.8.
    """

    names: tuple[str, ...]
    ranks: np.ndarray
    num_draws: int
    num_failed: int
    level: float
    bias: np.ndarray
    width_ratio: np.ndarray
    p_location: np.ndarray
    p_dispersion: np.ndarray
    p_ecdf: np.ndarray
    p_value: np.ndarray
    points: np.ndarray
    ecdf_difference: np.ndarray
    band: np.ndarray
    verdicts: tuple[tuple[Verdict, ...], ...]
    smallest_width_error: float

    @property
    def p_overall(self) -> float:
        """The p-value of all quantities together: the smallest times their number (Bonferroni), at most 1."""
        return float(min(len(self.names) * np.min(self.p_value), 1.0))

    def __repr__(self) -> str:
        failed = f", {self.num_failed} failed" if self.num_failed else ""
        head = f"Calibration({len(self.ranks)} simulations of {self.num_draws} draws{failed}; level {self.level:g})"
        shown = np.sort(np.argsort(self.p_value, kind="stable")[:_MOST_SHOWN])
        width = max(len(self.names[index]) for index in shown)
        rows = [
            f"  {self.names[index]:{width}}  width x {self.width_ratio[index]:.2f}, bias {self.bias[index]:+.2f} sd, "
            f"p = {self.p_value[index]:.2g}: "
            f"{' and '.join(verdict.value for verdict in self.verdicts[index]) or 'nothing found'}"
            for index in shown
        ]
        rest = len(self.names) - len(shown)
        return "\n".join([head, *rows, *([f"  and {rest} quantities of larger p-values"] if rest else [])])


@checked
def simulation_based_calibration(
    truths: BatchLike,
    draws: BatchLike,
    *,
    log_weights: BatchLike | None = None,
    quantities: Mapping[str, Quantity] | None = None,
    level: float = 0.99,
    key: KeyLike | None = None,
) -> Calibration:
    r"""Tests whether truths are distributed as posterior draws are, coordinate by coordinate.

    A posterior that equals the prior passes, because it is calibrated: look at the contraction
    ([`z_scores_and_contraction`][flowrax.diagnostics.z_scores_and_contraction]) too, or test the log-likelihood as a
    quantity.

    **Reference:** [@talts2018validating]; the band is that of [@sailynoja2022graphical].

    **Arguments:**

    - `truths`: `(s, *event)`, draws from the prior.
    - `draws`: `(s, n, *event)`, independent draws from the posterior given data simulated from each truth. Draws of a
        Markov chain must be thinned first. Rows that are not finite are left out, with a warning.
    - `log_weights`: `(s, n)`, log importance weights of the draws, normalised or not. The ranks are then uniform only
        up to the error of the weights. Default: equal weights.
    - `quantities`: further test quantities by name: a function of one event, which is mapped over all events, or a pair
        of arrays `(s,)` and `(s, n)` of its values at the truths and the draws, such as log-likelihoods given the data
        of each simulation. Default: none.
    - `level`: the probability that a correct posterior passes. Default: 0.99.
    - `key`: of the uniform numbers that spread the ranks over their steps. Default: `jax.random.key(0)`.

    **Returns:** [`Calibration`][].

    **Raises:** `ValueError` for shapes that do not fit, truths that are not finite, and fewer than 10 simulations.
    """
    check_between("level", level, 0.0, 1.0)
    runs = read_runs("simulation_based_calibration", truths, draws, log_weights)
    return calibration_of_columns(runs, columns_of(runs, quantities), level, host_generator(key))


@checked
def calibration_of_ranks(
    ranks: BatchLike,
    num_draws: Integer,
    *,
    names: tuple[str, ...] | None = None,
    level: float = 0.99,
    key: KeyLike | None = None,
) -> Calibration:
    """The tests of [`simulation_based_calibration`][] for ranks that are known already.

    **Arguments:**

    - `ranks`: `(s, q)` or `(s,)`, integers from 0 to `num_draws`: how many draws are below each truth.
    - `num_draws`: the number of draws for each truth.
    - `names`: the name of each quantity. Default: `x[0]`, `x[1]`, ...
    - `level`, `key`: as in [`simulation_based_calibration`][].

    **Returns:** [`Calibration`][].

    **Raises:** `ValueError` for ranks that are not integers from 0 to `num_draws`, and fewer than 10 rows.
    """
    check_between("level", level, 0.0, 1.0)
    num_draws = check_count("num_draws", num_draws)
    counts = host("ranks", ranks)
    counts = counts[:, None] if counts.ndim == 1 else counts
    if counts.ndim != 2 or len(counts) < LEAST_SIMULATIONS:
        raise ValueError(
            f"ranks has shape {counts.shape} but (s, q) with s of at least {LEAST_SIMULATIONS} is expected."
        )
    if not np.all((counts >= 0) & (counts <= num_draws) & (counts == np.round(counts))):
        raise ValueError(
            f"ranks must be integers from 0 to num_draws={num_draws}, the number of draws below each truth."
        )
    names = tuple(f"x[{index}]" for index in range(counts.shape[1])) if names is None else tuple(names)
    if len(names) != counts.shape[1]:
        raise ValueError(f"names has {len(names)} entries but ranks has {counts.shape[1]} columns.")
    spread = (counts + host_generator(key).uniform(size=counts.shape)) / (num_draws + 1)
    return calibration_of(np.clip(spread, 1e-12, 1 - 1e-12), names, num_draws, 0, level)


def columns_of(runs: Runs, quantities: Mapping[str, Quantity] | None) -> list[Column]:
    """The coordinates and the further quantities."""
    columns = list(runs.by_coordinate)
    for name, quantity in (quantities or {}).items():
        label = f"quantities[{name!r}]"
        if callable(quantity):
            of_truths = jax.vmap(quantity)(jnp.asarray(runs.truths.reshape(-1, *runs.event)))
            of_draws = jax.vmap(jax.vmap(quantity))(jnp.asarray(runs.draws.reshape(*runs.weights.shape, *runs.event)))
            values = host(label, of_truths), host(label, of_draws)
            if (values[0].shape, values[1].shape) != (runs.truths.shape[:1], runs.weights.shape):
                raise ValueError(f"{label} must give one number for an event; its shape is {values[0].shape[1:]}.")
            if np.isnan(values[0]).any() or np.isnan(values[1][runs.weights > 0]).any():
                raise ValueError(
                    f"{label} is NaN at some truths or draws; give a number, which may be infinite, for each."
                )
        else:
            values = runs.pair(label, quantity)
        columns.append((name, *values))
    return columns


def calibration_of_columns(runs: Runs, columns: list[Column], level: float, rng: np.random.Generator) -> Calibration:
    """The tests of the ranks of quantities."""
    ranks = [randomised_ranks(truth, draw, runs.weights, rng.uniform(size=len(truth))) for _, truth, draw in columns]
    names = tuple(name for name, *_ in columns)
    return calibration_of(np.stack(ranks, axis=1), names, int(np.median(runs.ess).round()), runs.num_failed, level)


def calibration_of(
    ranks: np.ndarray, names: tuple[str, ...], num_draws: int, num_failed: int, level: float
) -> Calibration:
    """The tests of ranks in (0, 1), `(s, q)`."""
    num, count = ranks.shape
    means, p_location = np.array([location_test(column) for column in ranks.T]).T
    dispersions, p_dispersion = np.array([dispersion_test(column) for column in ranks.T]).T
    p_ecdf = np.array([ecdf.p_value(column) for column in ranks.T])
    points, low, high = ecdf.band(num, 1 - (1 - level) / count)
    limits = np.array([width_ratio(dispersion, num_draws) for dispersion in dispersions])
    significance = (1 - level) / (TESTS * count)
    verdicts = tuple(
        _verdicts(mean, dispersion, np.array(p) <= significance)
        for mean, dispersion, *p in zip(means, dispersions, p_location, p_dispersion, p_ecdf, strict=True)
    )
    return Calibration(
        names=names,
        ranks=ranks,
        num_draws=num_draws,
        num_failed=num_failed,
        level=level,
        bias=-means,
        width_ratio=limits,
        p_location=p_location,
        p_dispersion=p_dispersion,
        p_ecdf=p_ecdf,
        p_value=np.minimum(TESTS * np.min([p_location, p_dispersion, p_ecdf], axis=0), 1.0),
        points=points,
        ecdf_difference=np.array([ecdf.counts_below(column, points) for column in ranks.T]) / num - points,
        band=np.array([low, high]) / num - points,
        verdicts=verdicts,
        smallest_width_error=smallest_width_error(num, num_draws, significance),
    )


def _verdicts(mean: float, dispersion: float, found: np.ndarray) -> tuple[Verdict, ...]:
    """What the significant tests, of location, dispersion and the distribution function, say."""
    verdicts = []
    if found[0]:
        verdicts.append(Verdict.BIASED_LOW if mean > 0 else Verdict.BIASED_HIGH)
    if found[1]:
        verdicts.append(Verdict.TOO_NARROW if dispersion > 1 else Verdict.TOO_WIDE)
    if found[2] and not verdicts:
        verdicts.append(Verdict.NOT_UNIFORM)
    return tuple(verdicts)
