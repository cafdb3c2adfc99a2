"""Writes the results in benchmarks/results/*.json into docs/benchmarks.md.

The text between `<!-- NAME -->` and `<!-- /NAME -->` is generated. Run `python -m benchmarks.page`.
"""

import json
import re
import tomllib

from . import environment

PAGE = environment.ROOT / "docs" / "benchmarks.md"
REASONS = environment.ROOT / "benchmarks" / "reasons.toml"
ORDER = (
    "adaptive",
    "fixed",
    "sde",
    "likelihood",
    "gradient",
    "training",
    "few_steps",
    "discrete",
    "couplings",
    "inverse",
)


def main():
    from . import plots

    results = load(environment.RESULTS)
    plots.draw(results)
    reasons = tomllib.loads(REASONS.read_text()) if REASONS.exists() else {}
    PAGE.write_text(fill(PAGE.read_text(), results, reasons))


def load(folder):
    """The results of each job, in the order of the page."""
    found = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
    return {job: found[job] for job in sorted(found, key=lambda j: ORDER.index(j) if j in ORDER else len(ORDER))}


def fill(page, results, reasons):
    """The page with all marked parts regenerated; a job without results is marked "Not measured yet."."""
    parts = {"machine": machine(results), "summary": summary(results)}
    for job in ORDER:
        parts[job] = section(results[job], reasons) if job in results else "Not measured yet."
    for name, text in parts.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        page = pattern.sub(lambda match, text=text: f"{match[1]}\n{text}\n\n{match[2]}", page)
    return page


def table(header, rows):
    lines = [f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])


def number(value):
    if value == 0 or 1e-2 <= abs(value) < 1e4:
        return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:.1e}"


def machine(results):
    rows = []
    for job, content in results.items():
        where = content["environment"]
        rows.append(
            [job, where["date"][:10], where["commit"], f"{where['cores']} x {where['processor']}", str(where["load"])]
        )
    if not rows:
        return "Not measured yet."
    newest = max((content["environment"] for content in results.values()), key=lambda e: e["date"])
    versions = ", ".join(f"{name} {version}" for name, version in newest["versions"].items())
    settings = ", ".join(f"`{name}={value}`" for name, value in newest["settings"].items())
    header = ("job", "date", "commit", "cores", "load at start")
    device = f"JAX's device: {newest['device']}. CPython {newest['python']}; {versions}."
    return "\n\n".join([table(header, rows), device, settings])


def summary(results):
    bars = [bar for content in results.values() for bar in content["bars"]]
    if not bars:
        return "Not measured yet."
    met = sum(bar["met"] for bar in bars)
    left = sum(len(content["skipped"]) for content in results.values())
    skipped = f" {left} {'parts were' if left != 1 else 'part was'} skipped." if left else ""
    return f"{met} of {len(bars)} bars are met.{skipped}"


def section(content, reasons):
    """The bars of a job, the reasons for missed bars, its other numbers and skipped parts."""
    setting = ", ".join(f"{key} {_plain(value)}" for key, value in content["setting"].items())
    blocks = [f"Setting: {setting}." if setting else ""]
    rows = [bar_row(bar) for bar in content["bars"]]
    if rows:
        blocks.append(table(("bar", "limit", "median (minimum to maximum)", "clock", "by the other clock", ""), rows))
    missed = [bar["name"] for bar in content["bars"] if not bar["met"]]
    blocks.extend(f"Missed: {name}. {reasons[name]}" for name in missed if name in reasons)
    if unexplained := [name for name in missed if name not in reasons]:
        blocks.append(f"Missed, for reasons not yet measured: {'; '.join(unexplained)}.")
    if content["numbers"]:
        rows = [[n["name"], f"{number(n['value'])} {n['unit']}".strip()] for n in content["numbers"]]
        blocks.append(table(("also measured", ""), rows))
    blocks.extend(f"Skipped: {line}." for line in content["skipped"])
    if not content["finished"]:
        blocks.append("This run was stopped before it finished.")
    return "\n\n".join(block for block in blocks if block)


def bar_row(bar):
    sign = "≤" if bar["sense"] == "at most" else "≥"
    spread = "" if bar["low"] == bar["high"] else f" ({number(bar['low'])} to {number(bar['high'])})"
    other = "" if bar["other_clock"] is None else number(bar["other_clock"])
    clock = bar["clock"] if other else ""
    verdict = "met" if bar["met"] else "**missed**"
    return [bar["name"], f"{sign} {number(bar['limit'])}", f"{number(bar['median'])}{spread}", clock, other, verdict]


def _plain(value):
    return f"{value:g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
