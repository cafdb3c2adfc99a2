"""Draws docs/figures/benchmarks_*.png from the results."""

import numpy as np
from matplotlib.figure import Figure

from . import environment

FIGURES = environment.ROOT / "docs" / "figures"
BLUE, RED, GREY = "#1f5fa8", "#c2410c", "0.45"
# flowrax is blue in all figures.
STYLES = [
    ("flowrax DPM", {"color": BLUE, "marker": "o"}),
    ("flowrax UniPC", {"color": BLUE, "marker": "s", "linestyle": "--"}),
    ("flowrax Heun", {"color": BLUE, "marker": "^", "linestyle": ":", "alpha": 0.6}),
    ("flowrax", {"color": BLUE, "marker": "o"}),
    ("k-diffusion", {"color": GREY, "marker": "x", "zorder": 3}),
    ("diffusers DPM", {"color": RED, "marker": "o", "markerfacecolor": "none"}),
    ("diffusers UniPC", {"color": RED, "marker": "s", "markerfacecolor": "none", "linestyle": "--"}),
    ("vmap", {"color": GREY, "marker": "d"}),
    ("torchdiffeq", {"color": RED, "marker": "s"}),
]


def draw(results):
    """Draws the figures for `results`, a dictionary from jobs to their JSON; returns the names of the files."""
    drawn = []
    if "adaptive" in results and results["adaptive"]["curves"]:
        drawn.append(save(precision(results["adaptive"]["curves"], "evaluations per sample"), "adaptive"))
    if "few_steps" in results and results["few_steps"]["curves"]:
        drawn.append(save(precision(results["few_steps"]["curves"], "evaluations"), "few_steps"))
    if results:
        drawn.append(save(bars(results), "bars"))
    return drawn


def save(figure, name):
    FIGURES.mkdir(parents=True, exist_ok=True)
    path = FIGURES / f"benchmarks_{name}.png"
    figure.savefig(path, dpi=130)
    return path.name


def precision(curves, xlabel):
    """The error of the worst and of the median sample against the cost, in one row of axes per part."""
    parts = list(dict.fromkeys(curve["part"] for curve in curves))
    figure = Figure(figsize=(9.6, 3.7 * len(parts) + 0.3), layout="constrained")
    axes = figure.subplots(len(parts), 2, squeeze=False, sharey="row")
    for row, part in zip(axes, parts, strict=True):
        for axis, which in zip(row, ("worst", "median"), strict=True):
            for curve in [c for c in curves if c["part"] == part]:
                points = sorted(curve["points"], key=lambda p: p["evaluations"])
                cost, error = ([p[key] for p in points] for key in ("evaluations", which))
                axis.plot(cost, error, label=curve["name"], linewidth=1.3, markersize=5, **style(curve["name"]))
            axis.set(xscale="log", yscale="log", xlabel=xlabel, title=f"{part}{': ' if part else ''}{which} sample")
            costs = {p["evaluations"] for c in curves if c["part"] == part for p in c["points"]}
            ticks = [t for t in (5, 10, 20, 30, 40, 60, 100, 200, 400) if 0.9 * min(costs) <= t <= 1.1 * max(costs)]
            axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axis.minorticks_off()
            axis.grid(color="0.92")
            axis.spines[["top", "right"]].set_visible(False)
        row[0].set_ylabel("rms error over a sample's elements")
        row[1].legend(frameon=False, fontsize=8)
    return figure


def style(name):
    return next((options for prefix, options in STYLES if name.startswith(prefix)), {"color": "0.7", "marker": "."})


def bars(results):
    """All bars, each relative to its limit."""
    rows = [(job, bar) for job, content in results.items() for bar in content["bars"] if bar["limit"] > 0]
    figure = Figure(figsize=(9.6, 0.27 * len(rows) + 0.9), layout="constrained")
    axis = figure.subplots()
    for y, (_, bar) in enumerate(rows):
        margin = [bar[key] / bar["limit"] for key in ("low", "median", "high")]
        margin = margin if bar["sense"] == "at most" else [1 / max(m, 1e-9) for m in margin[::-1]]
        margin = np.clip(margin, 1e-2, 1e2)
        color = BLUE if bar["met"] else RED
        axis.plot(margin[::2], [y, y], color=color, linewidth=1.5, solid_capstyle="butt")
        axis.plot(margin[1], y, "o", color=color, markersize=4)
    axis.axvline(1, color="0.3", linewidth=1)
    axis.set_yticks(range(len(rows)), [f"{bar['name']}" for _, bar in rows], fontsize=7)
    axis.set(
        xscale="log",
        xlim=(8e-3, 1.2e2),
        ylim=(len(rows) - 0.3, -0.7),
        xlabel="share of the limit used: left of 1 the bar is met",
    )
    axis.set_xticks([0.01, 0.1, 1, 10, 100], ["0.01", "0.1", "1", "10", "100"])
    axis.grid(axis="x", color="0.92")
    axis.spines[["top", "right"]].set_visible(False)
    return figure
