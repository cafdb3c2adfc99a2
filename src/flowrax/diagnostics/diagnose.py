"""All diagnostics of a posterior at once, with what they found in words.

The error probability is shared out (Bonferroni), so a correct posterior passes everything with probability `level`:
four fifths are for simulation-based calibration, which sees most errors first, the rest in equal parts for the weights
of modes, for the balls around random points, and for the regions of highest density where log-densities are given.
"""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import numpy as np

from .._base.arguments import checked
from .._base.checks import check_between
from .._base.typing import BatchLike, KeyLike
from .calibration import Calibration, Quantity, Verdict, calibration_of, calibration_of_columns, columns_of
from .contraction import Contraction, contraction_of_runs
from .coverage import Coverage, coverage_of_runs, tarp_of_runs
from .modes import ModeTest, mode_test
from .runs import Runs, host_generator, read_runs

# Below this mean contraction a posterior hardly differs from the prior.
_LITTLE_CONTRACTION = 0.05
_FEW_DRAWS = 20
_NUM_BOOTSTRAP = 200


class Diagnosis(eqx.Module):
    """The result of `diagnose`.

    **Attributes:**

    - `sentences`: what was found, and what could not have been found, one sentence each.
    - `passed`: whether no test found anything.
    - `level`: the probability that a correct posterior passes.
    - `calibration`: the ranks and their tests.
    - `tarp`: the coverage of balls around random points.
    - `coverage`: the coverage of regions of highest density; None without log-densities.
    - `contraction`: z-scores and contractions.
    """

    sentences: tuple[str, ...]
    passed: bool
    level: float
    calibration: Calibration
    tarp: Coverage
    coverage: Coverage | None
    contraction: Contraction

    def __repr__(self) -> str:
        head = "passed" if self.passed else "errors found"
        return "\n".join([f"Diagnosis: {head} (level {self.level:g})", *(f"- {line}" for line in self.sentences)])


@checked
def diagnose(
    truths: BatchLike,
    draws: BatchLike,
    *,
    log_weights: BatchLike | None = None,
    log_prob: tuple[Any, Any] | None = None,
    prior_draws: BatchLike | None = None,
    quantities: Mapping[str, Quantity] | None = None,
    level: float = 0.99,
    key: KeyLike | None = None,
) -> Diagnosis:
    """Everything that simulations tell about a posterior, in words: print the result.

    Where the draws of a coordinate have two separate modes, the weights of the modes are tested, and position and width
    within the modes.

    **Arguments:**

    - `truths`, `draws`, `log_weights`, `quantities`: as in [`simulation_based_calibration`][].
    - `log_prob`: as in [`expected_coverage`][]. Default: none.
    - `prior_draws`: as in [`z_scores_and_contraction`][]. Default: `truths`.
    - `level`: the probability that a correct posterior passes all tests. Default: 0.99.
    - `key`: of the uniform numbers that spread ranks over their steps, and of random points. Default:
        `jax.random.key(0)`.

    **Returns:** [`Diagnosis`][].

    **Raises:** `ValueError` as [`simulation_based_calibration`][] and [`z_scores_and_contraction`][].
    """
    check_between("level", level, 0.0, 1.0)
    runs, rng = read_runs("diagnose", truths, draws, log_weights), host_generator(key)
    columns = columns_of(runs, quantities)
    calibration = calibration_of_columns(runs, columns, 1 - 0.8 * (1 - level), rng)
    share = 0.2 * (1 - level) / (2 if log_prob is None else 3)
    modes = [
        mode_test(truth, draw, runs.weights, calibration.ranks[:, index], rng.uniform(size=len(truth)))
        for index, (_, truth, draw) in enumerate(columns)
    ]
    points = tarp_of_runs(runs, None, 1 - share, _NUM_BOOTSTRAP, rng)
    regions = None if log_prob is None else coverage_of_runs(runs, log_prob, 1 - share, _NUM_BOOTSTRAP, rng)
    contraction = contraction_of_runs(runs, prior_draws)
    found = _in_quantities(calibration, modes, share / len(columns))
    found += _in_regions(points, share, "the coordinates taken together (balls around random points)")
    found += [] if regions is None else _in_regions(regions, share, "regions of highest density")
    sentences = (*found, *_limits(runs, calibration, contraction, found))
    return Diagnosis(sentences, not found, level, calibration, points, regions, contraction)


def _in_quantities(calibration: Calibration, modes: list[ModeTest | None], significance: float) -> list[str]:
    """Sentences about the quantities in which something was found."""
    sentences = []
    for index, (name, test) in enumerate(zip(calibration.names, modes, strict=True)):
        record = calibration
        if test is not None and test.p_value <= significance:
            sentences.append(f"{name}: {_about_modes(test)}.")
            # Wrong weights shift all ranks; those within the modes show whether anything else is wrong.
            ranks = calibration.ranks.copy()
            ranks[:, index] = test.ranks
            failed, shared = calibration.num_failed, calibration.level
            record = calibration_of(ranks, calibration.names, test.num_draws, failed, shared)
        where = " within the modes" if record is not calibration else ""
        words = [_word(record, index, verdict) for verdict in record.verdicts[index]]
        if words:
            p = record.p_value[index]
            sentences.append(f"{name}: the posterior is {' and '.join(words)}{where} (p = {p:.1g}).")
    return sentences


def _word(record: Calibration, index: int, verdict: Verdict) -> str:
    ratio, bias = record.width_ratio[index], abs(record.bias[index])
    error = ratio / np.sqrt(2 * len(record.ranks))
    if verdict in (Verdict.TOO_NARROW, Verdict.TOO_WIDE):
        return f"{verdict.value} by about {100 * abs(1 - ratio):.0f}% (standard error {100 * error:.0f}%)"
    if verdict in (Verdict.BIASED_LOW, Verdict.BIASED_HIGH):
        return f"{verdict.value} by about {bias:.2f} of its standard deviations"
    return verdict.value


def _about_modes(test: ModeTest) -> str:
    which = "upper" if test.upper[2] <= test.larger[2] else "larger"
    weight, fraction, _ = test.upper if which == "upper" else test.larger
    size = "too small" if weight < fraction else "too large"
    return (
        f"the weight of the {which} mode is {size}, {weight:.2f} on average where {fraction:.2f} of the truths lie "
        f"(p = {test.p_value:.1g}, {test.num:,} simulations with two modes)"
    )


def _in_regions(record: Coverage, significance: float, name: str) -> list[str]:
    p_area, p = record.p_area[0], record.p_value[0]
    if min(2 * p_area, 2 * p) > significance:
        return []
    confident = "too confident" if record.area[0] < 0 else "not confident enough"
    if 2 * p_area <= significance:
        return [f"In {name} the posterior is {confident} (p = {min(2 * p_area, 1):.1g})."]
    return [f"In {name} the coverage deviates from the credibility (p = {min(2 * p, 1):.1g})."]


def _limits(runs: Runs, calibration: Calibration, contraction: Contraction, found: list[str]) -> list[str]:
    """Sentences about what was not found, and about what could not have been found."""
    fine = [name for name in calibration.names if not any(line.startswith(f"{name}: ") for line in found)]
    sentences = []
    if len(fine) > 8:
        sentences.append(
            f"Nothing found in {'all' if len(fine) == len(calibration.names) else 'the other'} {len(fine)} quantities."
        )
    elif fine:
        sentences.append(f"Nothing found in {', '.join(fine)}.")
    num, num_draws = len(runs.truths), calibration.num_draws
    kind = "effective draws" if _is_weighted(runs) else "draws"
    sentences.append(
        f"{num:,} simulations of {num_draws:,} {kind} notice a width that is wrong by "
        f"{100 * calibration.smallest_width_error:.0f}% with probability 0.8; smaller errors may remain."
    )
    if runs.num_failed:
        sentences.append(
            f"{runs.num_failed:,} of {runs.kept.size:,} simulations failed and are left out: nothing is known of those."
        )
    if num_draws < _FEW_DRAWS:
        sentences.append(f"The ranks are coarse: {num_draws} draws for a truth are few; {_FEW_DRAWS} or more see more.")
    mean = np.mean(contraction.contraction, axis=0)
    little = [name for name, value in zip(contraction.names, mean, strict=True) if abs(value) < _LITTLE_CONTRACTION]
    if little:
        names = ", ".join(little[:8]) + (", ..." if len(little) > 8 else "")
        sentences.append(
            f"The posterior of {names} is about as wide as the prior: a posterior that ignores the data would pass "
            "these tests too."
        )
    return sentences


def _is_weighted(runs: Runs) -> bool:
    return bool(np.ptp(runs.ess) > 1e-6 * runs.weights.shape[1] or runs.ess.mean() < runs.weights.shape[1] - 0.5)
