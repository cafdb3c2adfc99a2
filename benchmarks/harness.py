"""Timing in alternation, ratios with their spread, bars, and one json per job.

Absolute times of a shared machine mean little; the ratio of two variants of the same round means much more.
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
    """A piece of flowrax, or a peer, that is not there."""


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds of each round, of the clock on the wall and of all cores together."""

    wall: list[float]
    cpu: list[float]


@dataclasses.dataclass(frozen=True)
class Ratio:
    """Of two variants, round by round."""

    median: float
    low: float
    high: float

    def scaled(self, factor):
        return Ratio(self.median * factor, self.low * factor, self.high * factor)


def say(line):
    print(line, file=sys.stderr, flush=True)


def alternate(variants, rounds, at_least=0.05):
    """Times `variants`, a dict of functions that block, in turn; every other round backwards.

    A variant faster than `at_least` seconds is repeated within its turn until it takes that long.
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
    """Of `name` to `other`."""
    ratios = np.asarray(getattr(times[name], clock)) / np.asarray(getattr(times[other], clock))
    return Ratio(float(np.median(ratios)), float(ratios.min()), float(ratios.max()))


def errors(x, truth):
    """Of each sample the root mean square over its elements; then the worst, the median, and over all the rms."""
    error = np.asarray(x, np.float64) - np.asarray(truth, np.float64)
    each = np.sqrt(np.mean(error.reshape(error.shape[0], -1) ** 2, axis=1))
    return {"worst": float(each.max()), "median": float(np.median(each)), "rms": float(np.sqrt(np.mean(each**2)))}


class Report:
    """What one job found; written whenever something is added, so that a killed run keeps what it had."""

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
        """`value` is a [`Ratio`][] or a number, of `clock`; `also` the same by the other clock. One of two limits."""
        value = value if isinstance(value, Ratio) else Ratio(float(value), float(value), float(value))
        if at_most is not None:
            limit, sense, met = at_most, "at most", value.median <= at_most
        elif at_least is not None:
            limit, sense, met = at_least, "at least", value.median >= at_least
        else:
            raise ValueError("A bar has a limit: at_most or at_least.")
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
        """A bar on the ratio of two variants, with the other clock's beside it."""
        second = "cpu" if clock == "wall" else "wall"
        value, also = (ratio(times, one, other, c).scaled(factor) for c in (clock, second))
        self.bar(name, value, also=also, clock=clock, at_most=at_most, at_least=at_least)

    def number(self, name, value, unit=""):
        self.content["numbers"].append({"name": name, "value": float(value), "unit": unit})
        say(f"  {name}: {float(value):.3g} {unit}")
        self.save()

    def point(self, curve, part="", **values):
        """One point of a work-precision curve."""
        found = [c for c in self.content["curves"] if (c["name"], c["part"]) == (curve, part)]
        if not found:
            found = [{"name": curve, "part": part, "points": []}]
            self.content["curves"].append(found[0])
        found[0]["points"].append({key: float(value) for key, value in values.items()})
        say(f"    {part} {curve}: " + ", ".join(f"{key} {value:.3g}" for key, value in values.items()))
        self.save()

    @contextlib.contextmanager
    def optional(self, what):
        """Goes on, with a line in the report, where a piece or a peer is missing."""
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
    """All of it or nothing: a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".part", delete=False) as file:
        json.dump(content, file, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)
