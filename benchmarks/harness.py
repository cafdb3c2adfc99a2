"""Alternating timings, ratios with their spread, bars (limits on measured values), and one JSON file per job.

Absolute times on a shared machine vary with its load; the ratio of two variants within one round varies much less.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import sys
import tempfile
import time

import numpy as np

from . import environment


class Missing(Exception):
    """Raised for a missing part of flowrax or a peer library that is not installed."""


@dataclasses.dataclass(frozen=True)
class Timing:
    """The wall time and the processor time of each round, in seconds."""

    wall: list[float]
    cpu: list[float]


@dataclasses.dataclass(frozen=True)
class Ratio:
    """The ratio of two variants: median, minimum and maximum over the rounds."""

    median: float
    low: float
    high: float

    def scaled(self, factor):
        return Ratio(self.median * factor, self.low * factor, self.high * factor)


def say(line):
    print(line, file=sys.stderr, flush=True)


def alternate(variants, rounds, at_least=0.05):
    """Times the functions in the dictionary `variants` in turn, in reverse order in every second round.

    The functions must block until their result is ready. A variant faster than `at_least` seconds is repeated within
    its turn to take about that long.
    """
    repeats = {}
    for name, function in variants.items():
        function()
        seconds = _clock(function, 1)[0]
        repeats[name] = max(1, int(np.ceil(at_least / max(seconds, 1e-7))))
        say(f"    {name}: about {1e3 * seconds:.3g} ms")
    times = {name: Timing([], []) for name in variants}
    for turn in range(rounds):
        order = list(variants) if turn % 2 == 0 else list(variants)[::-1]
        for name in order:
            wall, cpu = _clock(variants[name], repeats[name])
            times[name].wall.append(wall)
            times[name].cpu.append(cpu)
    return times


def _clock(function, repeats):
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(repeats):
        function()
    return (time.perf_counter() - wall) / repeats, (time.process_time() - cpu) / repeats


def ratio(times, name, other, clock="wall"):
    """The ratio of the times of `name` and `other` within each round."""
    ratios = np.asarray(getattr(times[name], clock)) / np.asarray(getattr(times[other], clock))
    return Ratio(float(np.median(ratios)), float(ratios.min()), float(ratios.max()))


def errors(x, truth):
    """The worst, median and root mean square over the samples of each sample's rms error over its elements."""
    error = np.asarray(x, np.float64) - np.asarray(truth, np.float64)
    each = np.sqrt(np.mean(error.reshape(error.shape[0], -1) ** 2, axis=1))
    return {"worst": float(each.max()), "median": float(np.median(each)), "rms": float(np.sqrt(np.mean(each**2)))}


class Report:
    """The results of one job. The file is written after each addition, so a killed run keeps its results."""

    def __init__(self, job, title, quick, folder, machine=None):
        self.path = pathlib.Path(folder) / f"{job}.json"
        self.content = {
            "job": job,
            "title": title,
            "quick": quick,
            "finished": False,
            "environment": environment.record() if machine is None else machine,
            "setting": {},
            "timings": {},
            "bars": [],
            "numbers": [],
            "curves": [],
            "skipped": [],
        }

    def save(self):
        write_json(self.path, self.content)

    def setting(self, **values):
        self.content["setting"].update(values)

    def timing(self, times, part=""):
        for name, timing in times.items():
            row = {}
            for clock in ("wall", "cpu"):
                seconds = np.asarray(getattr(timing, clock))
                row[clock] = {"median": float(np.median(seconds)), "low": seconds.min(), "high": seconds.max()}
                row[clock]["each"] = seconds.tolist()
            self.content["timings"][f"{part}{': ' if part else ''}{name}"] = row
        self.save()

    def bar(self, name, value, *, at_most=None, at_least=None, also=None, clock="wall"):
        """Adds a [`Ratio`][] or a number with one of the two limits; `also` is the ratio by the other clock."""
        value = value if isinstance(value, Ratio) else Ratio(float(value), float(value), float(value))
        if at_most is not None:
            limit, sense, met = at_most, "at most", value.median <= at_most
        elif at_least is not None:
            limit, sense, met = at_least, "at least", value.median >= at_least
        else:
            raise ValueError("A bar needs a limit: at_most or at_least.")
        entry = {
            "name": name,
            "limit": limit,
            "sense": sense,
            "clock": clock,
            **dataclasses.asdict(value),
            "other_clock": None if also is None else also.median,
            "met": bool(met),
        }
        self.content["bars"].append(entry)
        sign = "<=" if sense == "at most" else ">="
        spread = "" if value.low == value.high else f" ({value.low:.3g} to {value.high:.3g})"
        say(f"  {'met   ' if met else 'MISSED'} {name}: {value.median:.3g}{spread}, bar {sign} {limit:g}")
        self.save()

    def compare(self, name, times, one, other, *, factor=1.0, clock="wall", at_most=None, at_least=None):
        """Adds a bar for the ratio of two variants, measured by both clocks; the limit applies to `clock`."""
        second = "cpu" if clock == "wall" else "wall"
        value, also = (ratio(times, one, other, c).scaled(factor) for c in (clock, second))
        self.bar(name, value, also=also, clock=clock, at_most=at_most, at_least=at_least)

    def number(self, name, value, unit=""):
        self.content["numbers"].append({"name": name, "value": float(value), "unit": unit})
        say(f"  {name}: {float(value):.3g} {unit}")
        self.save()

    def point(self, curve, part="", **values):
        """Adds a point to a work-precision curve."""
        found = [c for c in self.content["curves"] if (c["name"], c["part"]) == (curve, part)]
        if not found:
            found = [{"name": curve, "part": part, "points": []}]
            self.content["curves"].append(found[0])
        found[0]["points"].append({key: float(value) for key, value in values.items()})
        say(f"    {part} {curve}: " + ", ".join(f"{key} {value:.3g}" for key, value in values.items()))
        self.save()

    @contextlib.contextmanager
    def optional(self, what):
        """Skips the block if a part of flowrax or a peer is missing, and reports it."""
        try:
            yield
        except Missing as missing:
            line = f"{what}: {missing}"
            if line not in self.content["skipped"]:
                self.content["skipped"].append(line)
                say(f"  skipped {line}")
                self.save()

    def finish(self, seconds):
        self.content["finished"], self.content["seconds"] = True, seconds
        self.save()


def write_json(path, content):
    """Writes the file atomically: a reader never sees an incomplete file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".part", delete=False) as file:
        json.dump(content, file, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)
