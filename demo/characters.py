"""Masked diffusion of the characters of a real text, compared with n-grams.

Run as `python demo/characters.py --out FOLDER`. A second run with the same folder resumes training, or reuses the
trained weights if training has finished.
"""

import argparse
import json
import os
import pathlib
import platform
import time
from typing import Any, NamedTuple

import jax
import matplotlib
import numpy as np
import optax
from matplotlib.figure import Figure

import corpus
import files
import flowrax as frx
import ngrams
from corpus import LENGTH, Corpus
from flowrax import discrete
from flowrax.discrete.base import AbstractSampler


class Settings(NamedTuple):
    """The settings of the network, its training and the evaluation."""

    width: int = 128
    depth: int = 4
    num_heads: int = 4
    num_steps: int = 3000
    batch_size: int = 32
    learning_rate: float = 0.02
    warm_up: int = 50
    ema_decay: float = 0.995
    report_every: int = 250
    stride: int = 8
    orders: int = 8
    test_windows: int | None = None
    seed: int = 0


QUICK = Settings(
    width=32,
    depth=1,
    num_heads=1,
    num_steps=20,
    batch_size=16,
    warm_up=2,
    report_every=10,
    orders=4,
    test_windows=4,
)

SAMPLERS: dict[str, tuple[AbstractSampler, int | None]] = {
    "Ancestral, 32 steps": (discrete.Ancestral(), 32),
    "Ancestral, 128 steps": (discrete.Ancestral(), 128),
    "Ancestral, 128 steps, temperature 0.8": (discrete.Ancestral(0.8), 128),
    "Unmask in random order": (discrete.Unmask(discrete.RandomOrder()), None),
    "Unmask by entropy": (discrete.Unmask(discrete.Entropy()), None),
    "Unmask from left to right": (discrete.Unmask(discrete.LeftToRight()), None),
}


def untrained(text: Corpus, settings: Settings) -> frx.CategoricalModel:
    """A transformer without time as input; the mask is one class more than the characters."""
    prior = frx.discrete.Masked.exclusive((LENGTH,), len(text.alphabet))
    network = frx.nn.Transformer(
        (LENGTH,),
        prior.num_classes,
        key=jax.random.key(settings.seed),
        width=settings.width,
        depth=settings.depth,
        num_heads=settings.num_heads,
        time=False,
    )
    return frx.CategoricalModel(network, frx.discrete.LogLinearMasking(), prior=prior)


def bits(model: frx.CategoricalModel, rows: np.ndarray) -> np.ndarray:
    """The upper bound on the bits per character of every window, `(n,)`."""
    bound = frx.log_prob(model, rows, key=jax.random.key(7), lanes=64)
    return -np.asarray(bound.value, np.float64) / (LENGTH * np.log(2))


def ngram_bits(models: list[ngrams.NGrams], rows: np.ndarray, before: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bits per character of every window, `(order, n)`: of each window alone, as for the network, or after `before`."""
    alone, running = [], []
    flat = rows.reshape(-1)
    whole = np.concatenate([before[-LENGTH:], flat])
    inside = np.arange(len(flat)) % LENGTH
    for model in models:
        alone.append(-model.log2_probabilities(flat, inside).reshape(rows.shape).mean(axis=1))
        after = model.log2_probabilities(whole, np.arange(len(whole)))[len(whole) - len(flat) :]
        running.append(-after.reshape(rows.shape).mean(axis=1))
    return np.array(alone), np.array(running)


def train(text: Corpus, settings: Settings, out: pathlib.Path, progress: bool) -> tuple[frx.FitResult, dict[str, Any]]:
    """Fits the network, and evaluates the bound on the validation text at regular intervals."""
    rate = optax.warmup_cosine_decay_schedule(0.0, settings.learning_rate, settings.warm_up, settings.num_steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.contrib.muon(rate))
    model, note = untrained(text, settings), out / "curve.json"
    data = corpus.windows(text.train, settings.stride)
    validation = corpus.windows(text.validation, LENGTH)[: settings.test_windows]
    curve = json.loads(note.read_text()) if note.exists() else {"settings": settings._asdict(), "points": []}
    if curve["settings"] != settings._asdict():
        raise SystemExit(f"{out} holds a run with other settings; use another folder.")
    fit = None
    for until in range(settings.report_every, settings.num_steps + 1, settings.report_every):
        start, before = time.perf_counter(), time.process_time()
        # Training continues to step `until` from the checkpoint of the previous call.
        fit = frx.fit(
            model,
            data,
            jax.random.key(settings.seed + 1),
            optimizer=optimizer,
            num_steps=until,
            batch_size=settings.batch_size,
            validation=validation,
            validate_every=settings.report_every,
            ema_decay=settings.ema_decay,
            checkpoint=out / "characters.checkpoint",
            progress=progress,
        )
        if until > max([0, *(point["step"] for point in curve["points"])]):
            spent = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - before}
            value = float(bits(fit.model, validation).mean())
            curve["points"].append({"step": until, "bits": value, **spent})
            files.write_text(note, json.dumps(curve))
            print(f"step {until}: at most {value:.3f} bits per character on the validation text", flush=True)
    assert fit is not None
    return fit, curve


def draws(model: frx.CategoricalModel, text: Corpus, judge: ngrams.NGrams, num_samples: int) -> dict[str, Any]:
    """Text drawn by several samplers, and its bits per character under the n-grams `judge`."""
    inside = np.arange(LENGTH * num_samples) % LENGTH
    found = {}
    for name, (sampler, grid) in SAMPLERS.items():
        x = np.asarray(frx.sample(model, jax.random.key(5), num_samples, dynamics=sampler, grid=grid).x)
        score = -judge.log2_probabilities(x.reshape(-1), inside).reshape(x.shape).mean(axis=1)
        found[name] = {"ngram_bits": estimate(score), "text": [text.decode(row) for row in x[:2]]}
    row = corpus.windows(text.test, LENGTH)[10]
    hidden = (np.arange(LENGTH) >= 48) & (np.arange(LENGTH) < 80)
    masked = np.where(hidden, len(text.alphabet), row).astype(np.int32)
    filled = frx.sample(
        model, jax.random.key(6), 3, x0=np.tile(masked, (3, 1)), dynamics=discrete.Unmask(discrete.Entropy())
    ).x
    infilled = [text.decode(x[48:80]) for x in np.asarray(filled)]
    infilling = {"given": text.decode(masked), "truth": text.decode(row), "fills": infilled}
    return {"samplers": found, "infilling": infilling}


def estimate(values: np.ndarray) -> list[float]:
    """The mean over windows and its standard error."""
    return [float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(len(values)))]


def picture(curve: dict[str, Any], alone: np.ndarray) -> Figure:
    """Plots the bits per character of the validation text during training, with a line for each order of n-grams."""
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.subplots()
    steps = [point["step"] for point in curve["points"]]
    axes.plot(steps, [point["bits"] for point in curve["points"]], "o-", color="#1f5fa8", markersize=3)
    for order, value in enumerate(alone.mean(axis=1), start=1):
        if order in (2, 3, 4, 5, len(alone)):
            axes.axhline(value, color="0.6", linewidth=0.8)
            axes.text(0, value, f" {order}-gram", color="0.35", va="bottom", fontsize=8)
    axes.set(xlabel="training steps", ylabel="bits per character", xlim=(0, None))
    axes.set_title("Validation text: bound of masked diffusion (blue), n-grams (grey)", fontsize=9)
    return figure


def page(facts: dict[str, Any]) -> str:
    """The report in Markdown."""
    machine, held = facts["machine"], facts["test"]
    lines = [
        "# Masked diffusion of characters",
        "",
        f"{facts['date']}, {machine['cores']} cores ({machine['processor']}), Python {machine['python']}, "
        f"jax {machine['jax']}, flowrax {machine['flowrax']}. {facts['parameters']:,} parameters, "
        f"{facts['settings']['num_steps']:,} steps of {facts['settings']['batch_size']} windows of {LENGTH} "
        f"characters, {facts['training_seconds']:.0f} s ({facts['training_cpu_seconds']:.0f} s of processor time).",
        "",
        f"Held-out text, {facts['test_windows']} windows; ± is the standard error over windows.",
        "",
        "| | bits per character, window alone | bits per character given the preceding text |",
        "| --- | --- | --- |",
    ]
    for order, (alone, running) in enumerate(zip(held["alone"], held["running"], strict=True), start=1):
        lines.append(f"| {order}-gram | {alone[0]:.3f} ± {alone[1]:.3f} | {running[0]:.3f} ± {running[1]:.3f} |")
    lines.append(f"| masked diffusion (upper bound) | {held['model'][0]:.3f} ± {held['model'][1]:.3f} | |")
    less = held["difference"]
    lines += ["", f"Masked diffusion minus the best n-gram, window alone: {less[0]:+.3f} ± {less[1]:.3f}.", ""]
    lines += ["| sampler | bits per character under the longest n-gram | one sample |", "| --- | --- | --- |"]
    for name, found in facts["samplers"].items():
        sample = found["text"][0].replace("|", "\\|").replace("`", "'")
        lines.append(f"| {name} | {found['ngram_bits'][0]:.2f} ± {found['ngram_bits'][1]:.2f} | `{sample}` |")
    filling = facts["infilling"]
    lines += ["", "Infilling of a held-out window:", "", "```text", filling["given"], *filling["fills"]]
    return "\n".join([*lines, f"(truth) {filling['truth'][48:80]}", "```", ""])


def main() -> None:
    """Runs every stage and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder for the report and the checkpoint")
    parser.add_argument("--quick", action="store_true", help="small settings, to check that the script runs")
    parser.add_argument("--no-progress", action="store_true", help="no progress bar")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    settings, text = QUICK if args.quick else Settings(), corpus.load()
    fit, curve = train(text, settings, args.out, not args.no_progress)
    model = fit.model
    assert isinstance(model, frx.CategoricalModel)
    rows = corpus.windows(text.test, LENGTH)[: settings.test_windows]
    models = [ngrams.train(text.train, order, len(text.alphabet)) for order in range(1, settings.orders + 1)]
    alone, running = ngram_bits(models, rows, text.validation)
    ours = bits(model, rows)
    best = alone[np.argmin(alone.mean(axis=1))]
    validation = corpus.windows(text.validation, LENGTH)[: settings.test_windows]
    lines, _ = ngram_bits(models, validation, text.train)
    facts = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": {
            "cores": len(os.sched_getaffinity(0)),
            "processor": platform.processor() or platform.machine(),
            "python": platform.python_version(),
            "jax": jax.__version__,
            "flowrax": frx.__version__,
            "matplotlib": matplotlib.__version__,
        },
        "settings": settings._asdict(),
        "text": {"sha256": text.digest, "alphabet": text.alphabet, "characters": [len(part) for part in text[:3]]},
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(model.network) if hasattr(leaf, "size")),
        "training_seconds": sum(point["seconds"] for point in curve["points"]),
        "training_cpu_seconds": sum(point["cpu_seconds"] for point in curve["points"]),
        "curve": curve["points"],
        "best_step": fit.best_step,
        "test_windows": len(rows),
        "test": {
            "model": estimate(ours),
            "alone": [estimate(values) for values in alone],
            "running": [estimate(values) for values in running],
            "difference": estimate(ours - best),
        },
        **draws(model, text, models[-1], 4 if args.quick else 64),
    }
    files.write_text(args.out / "characters.json", json.dumps(facts, indent=2) + "\n")
    files.write_figure(args.out / "characters.png", picture(curve, lines))
    files.write_text(args.out / "characters.md", page(facts))
    print(page(facts))


if __name__ == "__main__":
    main()
