"""Figures from arrays: images, trajectories, comparisons of likelihoods, training curves, calibration.

Each function returns a `matplotlib.figure.Figure` that is independent of pyplot's windows and global state; save it
with `figure.savefig(path)`. Matplotlib is imported when a figure is drawn, not on `import flowrax`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ._base.arrays import as_real
from ._base.checks import check_count, check_finite, check_increasing, check_instance, check_positive, check_shape
from ._base.tracebacks import short_traceback
from ._base.typing import Array
from ._base.wording import described

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

    from .diagnostics import Calibration, Coverage

ArrayLike = Array | np.ndarray

_BLUE, _ORANGE, _GREY, _MISSING, _BAND = "#2f6db3", "#d9731a", "#6b6b6b", "#cfe0f2", "#dddddd"


@short_traceback
def images(
    grid: ArrayLike,
    *,
    value_range: tuple[float, float] = (0.0, 1.0),
    column_titles: Sequence[str] | None = None,
    row_titles: Sequence[str] | None = None,
    title: str | None = None,
    cell: float = 0.7,
    colour_map: str = "gray_r",
) -> "matplotlib.figure.Figure":
    """A table of single-channel images.

    **Arguments:**

    - `grid`: `(rows, columns, height, width)`; NaN marks missing pixels, which are drawn in pale blue.
    - `value_range`: the values at the two ends of the colour map; values beyond are clipped. Default: 0 and 1.
    - `column_titles`, `row_titles`: one string for each column, above it, and for each row, at its left. Default: none.
    - `title`: the title of the figure. Default: none.
    - `cell`: the size of an image in inches.
    - `colour_map`: the name of a matplotlib colour map.

    **Returns:** the figure.

    **Raises:** `ValueError` unless `grid` has four axes and the titles are as many as the columns and rows.
    """
    import matplotlib

    grid = np.asarray(as_real("grid", grid))
    if grid.ndim != 4 or 0 in grid.shape:
        raise ValueError(f"grid has shape {grid.shape} but (rows, columns, height, width) is expected.")
    rows, columns = grid.shape[:2]
    if np.shape(value_range) != (2,):
        raise ValueError(f"value_range must be a pair of numbers; got {described(value_range)}.")
    check_increasing("value_range[0]", value_range[0], "value_range[1]", value_range[1])
    check_positive("cell", cell)
    if colour_map not in list(matplotlib.colormaps):
        raise ValueError(f"colour_map must be the name of a matplotlib colour map; got {described(colour_map)}.")
    _check_texts(title=title)
    _check_titles("column_titles", column_titles, columns)
    _check_titles("row_titles", row_titles, rows)
    left = 0.05 if row_titles is None else 0.09 * max(map(len, row_titles)) + 0.1
    lines = 0 if column_titles is None else max(text.count("\n") + 1 for text in column_titles)
    top = 0.05 + 0.17 * lines + (0.0 if title is None else 0.35)
    width, height = left + columns * cell + 0.05, top + rows * cell + 0.05
    figure = _figure(width, height)
    colours = matplotlib.colormaps[colour_map].with_extremes(bad=_MISSING)
    for row in range(rows):
        for column in range(columns):
            x, y = left + column * cell, height - top - (row + 1) * cell
            axes = figure.add_axes((x / width, y / height, 0.94 * cell / width, 0.94 * cell / height))
            axes.imshow(grid[row, column], cmap=colours, vmin=value_range[0], vmax=value_range[1])
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set(color="#d0d0d0", linewidth=0.5)
            if column_titles is not None and row == 0:
                axes.set_title(column_titles[column], fontsize=8, pad=3)
            if row_titles is not None and column == 0:
                axes.set_ylabel(row_titles[row], fontsize=8, rotation=0, ha="right", va="center")
    if title is not None:
        figure.text(0.5, 1 - 0.08 / height, title, ha="center", va="top", fontsize=10)
    return figure


@short_traceback
def trajectory(
    paths: ArrayLike,
    times: ArrayLike,
    *,
    value_range: tuple[float, float] = (0.0, 1.0),
    title: str | None = None,
    cell: float = 0.7,
) -> "matplotlib.figure.Figure":
    """One row of images per sample, one column per time, from noise to data.

    **Arguments:**

    - `paths`: `(n, times, height, width)`, as in `Samples.trajectory`.
    - `times`: `(times,)`, the time of each column.
    - `value_range`, `title`, `cell`: as in [`images`][].

    **Returns:** the figure.
    """
    titles = [f"t = {t:.2f}" for t in _column("times", times)]
    return images(paths, value_range=value_range, column_titles=titles, title=title, cell=cell)


@short_traceback
def likelihood_calibration(
    exact: ArrayLike,
    estimate: ArrayLike,
    standard_error: ArrayLike,
    *,
    unit: str = "nats",
    title: str | None = None,
) -> "matplotlib.figure.Figure":
    """Estimates of a log-likelihood against exact values, and a check of their standard errors.

    The left panel shows the estimates, the middle panel their errors with bars of one standard error, and the right
    panel a histogram of the errors in units of the standard error, with the standard normal density that correct
    standard errors give.

    **Arguments:**

    - `exact`, `estimate`, `standard_error`: `(n,)`; standard errors must be positive and finite.
    - `unit`: the unit of all three. Default: nats.
    - `title`: the title of the figure. Default: none.

    **Returns:** the figure.

    **Raises:** `ValueError` for a standard error that is not positive and finite.
    """
    exact, estimate = _column("exact", exact), _column("estimate", estimate)
    error = _column("standard_error", standard_error)
    check_shape("estimate", estimate.shape, exact.shape)
    check_shape("standard_error", error.shape, exact.shape)
    check_finite("exact", exact)
    check_finite("estimate", estimate)
    _check_texts(title=title, unit=unit)
    if not (len(error) and np.all(np.isfinite(error)) and np.all(error > 0)):
        raise ValueError("standard_error must be positive and finite, since errors are divided by it.")
    figure = _figure(12.0, 3.8, layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    ends = [float(min(exact.min(), estimate.min())), float(max(exact.max(), estimate.max()))]
    left.plot(ends, ends, color=_GREY, linewidth=1, label="equal")
    left.plot(exact, estimate, "o", markersize=2.5, color=_BLUE, label="estimate")
    left.set(xlabel=f"exact log-likelihood ({unit})", ylabel=f"estimated log-likelihood ({unit})")
    left.legend(frameon=False, fontsize=8)
    middle.axhline(0, color=_GREY, linewidth=1)
    middle.errorbar(exact, estimate - exact, error, fmt="o", markersize=2.5, linewidth=0.8, color=_BLUE)
    middle.set(xlabel=f"exact log-likelihood ({unit})", ylabel=f"estimate - exact ({unit})")
    middle.set_title("with bars of one standard error", fontsize=9)
    z = (estimate - exact) / error
    limit = max(4.0, float(np.ceil(np.abs(z).max())))
    right.hist(
        z, bins=np.arange(-limit, limit + 0.25, 0.5).tolist(), density=True, color=_BLUE, alpha=0.6, label="found"
    )
    grid = np.linspace(-limit, limit, 201)
    normal = np.exp(-(grid**2) / 2) / np.sqrt(2 * np.pi)
    right.plot(grid, normal, color=_ORANGE, label="standard normal")
    right.set(xlabel="(estimate - exact) / standard error", ylabel="density")
    right.set_title(f"mean {z.mean():.2f}, standard deviation {z.std():.2f}, n = {z.size}", fontsize=9)
    right.legend(frameon=False, fontsize=8)
    for axes in (left, middle, right):
        _clean(axes)
    if title is not None:
        figure.suptitle(title, fontsize=10)
    return figure


@short_traceback
def training_curve(
    step: ArrayLike,
    train_loss: ArrayLike,
    validation_loss: ArrayLike | None = None,
    *,
    best_step: int | None = None,
    ylabel: str = "matching loss per dimension",
    title: str | None = None,
) -> "matplotlib.figure.Figure":
    """Losses against optimiser steps.

    **Arguments:**

    - `step`, `train_loss`, `validation_loss`: `(k,)`, as in `FitResult.history`. Default of `validation_loss`: none.
    - `best_step`: the step of the weights that were kept, marked by a vertical line. Default: none.
    - `ylabel`: the label of the vertical axis.
    - `title`: the title of the figure. Default: none.

    **Returns:** the figure.
    """
    step, train_loss = _column("step", step), _column("train_loss", train_loss)
    check_shape("train_loss", train_loss.shape, step.shape)
    if validation_loss is not None:
        validation_loss = _column("validation_loss", validation_loss)
        check_shape("validation_loss", validation_loss.shape, step.shape)
    if best_step is not None:
        best_step = check_count("best_step", best_step, 0)
    _check_texts(title=title, ylabel=ylabel)
    figure = _figure(6.0, 3.6, layout="constrained")
    axes = figure.subplots()
    axes.plot(step, train_loss, color=_BLUE, marker=".", label="training (current weights)")
    if validation_loss is not None:
        axes.plot(step, validation_loss, color=_ORANGE, marker=".", label="validation (averaged weights)")
    if best_step is not None:
        axes.axvline(best_step, color=_GREY, linestyle="--", linewidth=1, label=f"kept: step {best_step:,}")
    axes.set(xlabel="optimiser step", ylabel=ylabel)
    axes.legend(frameon=False, fontsize=8)
    _clean(axes)
    if title is not None:
        axes.set_title(title, fontsize=10)
    return figure


@short_traceback
def ranks(calibration: "Calibration", *, num_bins: int = 20, title: str | None = None) -> "matplotlib.figure.Figure":
    """Histograms of ranks and their distribution functions minus the uniform one, one row for each quantity.

    Of more than 12 quantities, those with the 12 smallest p-values are drawn.

    A histogram shaped like a U belongs to a posterior that is too narrow, a hump to one that is too wide, and a slope
    to a biased one.

    **Arguments:**

    - `calibration`: the result of `diagnostics.simulation_based_calibration`.
    - `num_bins`: the number of bins of the histograms.
    - `title`: the title of the figure. Default: none.

    **Returns:** the figure.
    """
    from scipy.stats import binom

    from .diagnostics import Calibration

    check_instance("calibration", calibration, Calibration)
    num_bins, num = check_count("num_bins", num_bins, 2), len(calibration.ranks)
    _check_texts(title=title)
    chosen = np.sort(np.argsort(calibration.p_value, kind="stable")[:12])
    rows = len(chosen)
    figure = _figure(7.5, 0.5 + 1.9 * rows, layout="constrained")
    bars = binom.ppf([(1 - calibration.level) / 2, (1 + calibration.level) / 2], num, 1 / num_bins)
    low, high = calibration.band
    reach = 1.05 * float(max(np.abs(calibration.band).max(), np.abs(calibration.ecdf_difference).max()))
    for row, (index, (left, right)) in enumerate(zip(chosen, figure.subplots(rows, 2, squeeze=False), strict=True)):
        left.axhspan(*bars, color=_BAND)
        left.axhline(num / num_bins, color=_GREY, linewidth=1)
        edges = np.linspace(0, 1, num_bins + 1).tolist()
        left.hist(calibration.ranks[:, index], bins=edges, color=_BLUE, alpha=0.6, rwidth=0.92)
        right.fill_between(calibration.points, low, high, color=_BAND)
        right.axhline(0, color=_GREY, linewidth=1)
        right.plot(calibration.points, calibration.ecdf_difference[index], color=_BLUE)
        words = " and ".join(verdict.value for verdict in calibration.verdicts[index]) or "nothing found"
        note = f"; grey: correct posterior, level {calibration.level:.3g}" if row == 0 else ""
        left.set(xlim=(0, 1), ylabel="simulations")
        left.set_title(f"{calibration.names[index]}: {words}", fontsize=9)
        right.set(xlim=(0, 1), ylim=(-reach, reach), ylabel="ECDF - uniform")
        right.set_title(f"p = {calibration.p_value[index]:.2g}{note}", fontsize=9)
        for axes in (left, right):
            _clean(axes)
            if row == rows - 1:
                axes.set_xlabel("rank of the truth among the draws")
    if title is not None:
        figure.suptitle(title, fontsize=10)
    return figure


@short_traceback
def coverage(record: "Coverage", *, title: str | None = None) -> "matplotlib.figure.Figure":
    """Coverage against credibility at the left, their difference at the right, with bands; one or two curves also have
    their bootstrap bounds.

    **Arguments:**

    - `record`: the result of `diagnostics.expected_coverage` or `diagnostics.tarp`.
    - `title`: the title of the figure. Default: none.

    **Returns:** the figure.
    """
    from .diagnostics import Coverage

    check_instance("record", record, Coverage)
    _check_texts(title=title)
    figure = _figure(8.0, 3.6, layout="constrained")
    for axes, base in zip(figure.subplots(1, 2), (0.0, record.credibility), strict=True):
        low, high = record.band - base
        axes.fill_between(
            record.credibility, low, high, color=_BAND, label=f"correct posterior, level {record.level:.3g}"
        )
        axes.plot(record.credibility, record.credibility - base, color=_GREY, linewidth=1)
        for index, name in enumerate(record.names):
            colour = (_BLUE, _ORANGE)[index] if len(record.names) <= 2 else f"C{index}"
            axes.plot(record.credibility, record.coverage[index] - base, color=colour, linewidth=1.5, label=name)
            if len(record.names) <= 2:
                lower, upper = record.bootstrap[:, index] - base
                axes.fill_between(record.credibility, lower, upper, color=colour, alpha=0.2, linewidth=0)
        axes.set(xlim=(0, 1), xlabel="credibility of the region")
        _clean(axes)
    left, right = figure.axes
    left.set(ylim=(0, 1), ylabel="fraction of truths in it")
    right.set(ylabel="coverage - credibility")
    left.legend(frameon=False, fontsize=7, loc="upper left")
    if title is not None:
        figure.suptitle(title, fontsize=10)
    return figure


def _figure(width: float, height: float, **options: Any) -> "matplotlib.figure.Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=150, **options)


def _clean(axes: "matplotlib.axes.Axes") -> None:
    axes.spines[["top", "right"]].set_visible(False)


def _column(name: str, x: Any) -> np.ndarray:
    """One column of numbers."""
    column = np.asarray(as_real(name, x), np.float64)
    if column.ndim != 1:
        raise ValueError(f"{name} has shape {column.shape} but (n,) is expected.")
    return column


def _check_texts(**texts: Any) -> None:
    for name, text in texts.items():
        if text is not None and not isinstance(text, str):
            raise ValueError(f"{name} must be a string; got {described(text)}.")


def _check_titles(name: str, titles: Any, count: int) -> None:
    if titles is None:
        return
    if isinstance(titles, str) or not all(isinstance(title, str) for title in titles):
        raise ValueError(f"{name} must be a list of strings; got {described(titles)}.")
    if len(titles) != count:
        raise ValueError(f"{name} has {len(titles)} entries but {count} are expected.")
