"""The report of the demo: a table, metrics as JSON, and one HTML page that contains its figures."""

import base64
import html
import pathlib
from typing import Any

import numpy as np

from data import bits_per_dimension

Row = tuple[str, str, np.ndarray, float | None]
"""Name, settings, log-likelihoods of the test images in nats, and the error of their mean due to random probes."""

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; width: 100%; font-size: 0.92rem; }
th, td { text-align: left; padding: 0.3rem 0.6rem; border-bottom: 1px solid #ddd; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
figure { margin: 2rem 0; } img { max-width: 100%; } figcaption { color: #555; font-size: 0.92rem; }
"""


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """The mean of a sample and its standard error."""
    return float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(len(values)))


def row_metrics(row: Row) -> dict[str, Any]:
    """One row of the table as numbers."""
    _, choice, values, probe_error = row
    nats, nats_error = mean_and_error(values)
    bits, bits_error = mean_and_error(bits_per_dimension(values))
    numbers = {
        "choice": choice,
        "nats": nats,
        "nats_standard_error_over_images": nats_error,
        "bits_per_dimension": bits,
        "bits_per_dimension_standard_error_over_images": bits_error,
    }
    return numbers if probe_error is None else {**numbers, "nats_standard_error_of_probes": probe_error}


def summary(rows: list[Row], lines: list[str]) -> str:
    """The report as text for the terminal."""
    head = f"{'test log-likelihood':<24}{'nats':>16}{'bits/dim':>18}"
    table = []
    for row in rows:
        m = row_metrics(row)
        nats = f"{m['nats']:.2f} ± {m['nats_standard_error_over_images']:.2f}"
        bits = f"{m['bits_per_dimension']:.3f} ± {m['bits_per_dimension_standard_error_over_images']:.3f}"
        table.append(f"{row[0]:<24}{nats:>16}{bits:>18}")
    return "\n".join([head, *table, "(± standard error over the test images)", *lines])


def _cell(text: str, kind: str = "number") -> str:
    return f'<td class="{kind}">{html.escape(text)}</td>'


def _table(rows: list[Row]) -> str:
    lines = []
    for row in rows:
        m = row_metrics(row)
        probes = m.get("nats_standard_error_of_probes")
        cells = [
            _cell(row[0], "name"),
            _cell(f"{m['nats']:.2f} ± {m['nats_standard_error_over_images']:.2f}"),
            _cell("exact" if probes is None else f"± {probes:.3f}"),
            _cell(f"{m['bits_per_dimension']:.3f} ± {m['bits_per_dimension_standard_error_over_images']:.3f}"),
            _cell(row[1], "choice"),
        ]
        lines.append("<tr>" + "".join(cells) + "</tr>")
    head = (
        "<tr><th>density</th><th class=number>nats per image</th><th class=number>error of the mean due to probes</th>"
        "<th class=number>bits per dimension</th><th>chosen by validation</th></tr>"
    )
    return f"<table>{head}{''.join(lines)}</table>"


def page(rows: list[Row], lines: list[str], pictures: list[tuple[pathlib.Path, str]]) -> str:
    """The whole report; `pictures` are PNG files and their captions."""
    figures = []
    for path, caption in pictures:
        data = base64.b64encode(path.read_bytes()).decode()
        figures.append(
            f'<figure><img alt="{html.escape(path.stem)}" src="data:image/png;base64,{data}">'
            f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        )
    facts = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>flowrax on handwritten digits</title><style>{STYLE}</style></head>
<body><h1>flowrax on handwritten digits</h1>
<p>scikit-learn's 1,797 digits of 8 x 8 pixels, split into 1,437 for training, 180 for validation and 180 for testing.
Grey levels k = 0 … 16 become x = (k + u) / 17 with uniform u, drawn anew at every training step. The table gives
log-likelihoods of x, for all models on the same test images with the same draw of u; ± is the standard error over the
test images. Bits per dimension refer to the grey levels: -(log p(x) - 64 log 17) / (64 log 2). All settings were chosen
on the validation images.</p>
{_table(rows)}
<ul>{facts}</ul>
{"".join(figures)}
</body></html>
"""
