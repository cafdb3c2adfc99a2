"""Samples, log-likelihoods with error bars and posteriors of a flow trained on images of digits.

Run as `python demo/digits.py --out FOLDER`. A second run with the same folder reuses the trained weights, and resumes
an interrupted training.
"""

import argparse
import json
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import baselines
import data
import figures
import files
import flow
import flowrax as frx
import report
from data import Digits

NOISE_STD = 0.1
TIMES = np.array([0.0, 0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0])


class Stopwatch:
    """Prints the name of each stage and records its duration."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, stage: str, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Runs one stage."""
        print(f"{stage} ...", flush=True)
        start = time.perf_counter()
        result = call(*args, **options)
        self.seconds[stage] = round(time.perf_counter() - start, 2)
        return result


def arguments() -> argparse.Namespace:
    """The arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder for the report, figures and checkpoint")
    parser.add_argument("--quick", action="store_true", help="small settings, to check that the script runs")
    parser.add_argument("--no-progress", action="store_true", help="no progress bar")
    return parser.parse_args()


def compare(
    digits: Digits, model: frx.Model, settings: flow.Settings, stage: Stopwatch, quick: bool
) -> tuple[list[report.Row], flow.Likelihoods, dict[str, Any]]:
    """The log-likelihoods of all densities on the same rows."""
    validation = data.dequantise(digits.validation, seed=2)
    test = data.dequantise(digits.test, seed=3)[: 60 if quick else None]
    held_out = stage("flow on the validation images", flow.validation_log_likelihood, model, digits, validation)
    values = stage("flow on the test images", flow.likelihoods, model, digits, test, 16 if quick else 32)
    rows: list[report.Row] = [("flow, exact", describe(settings), values.exact, None)]
    probe_error = float(np.sqrt(np.sum(values.standard_error**2)) / len(test))
    rows.append((f"flow, {values.num_probes} probes", "the same flow", values.estimate, probe_error))
    chosen = {"flow": held_out}
    for fit in (baselines.gaussian_mixture, baselines.kernel_density):
        name = fit.__name__.replace("_", " ")
        other = stage(name, fit, digits, validation, test, quick=quick)
        rows.append((other.name, other.choice, other.test, None))
        chosen[name] = other.validation
    return rows, values, {"validation_nats": chosen}


def describe(settings: flow.Settings) -> str:
    """The flow's settings, for the table."""
    return (
        f"residual perceptron, {settings.depth} blocks of width {settings.width}, dropout {settings.dropout}, "
        f"best of {settings.num_steps:,} steps"
    )


def facts(
    training: flow.Training, values: flow.Likelihoods, posteriors: flow.Posteriors, steps: float
) -> dict[str, Any]:
    """Further results, which are not in the table of log-likelihoods."""
    z = (values.estimate - values.exact) / values.standard_error
    half = posteriors.observed.shape[1]
    hidden = posteriors.draws[..., half:]
    error = hidden.mean(axis=1) - posteriors.truth[:, half:]
    # The expected squared distance between the mean of k draws and one more draw.
    expected = hidden.var(axis=1, ddof=1) * (1 + 1 / hidden.shape[1])
    return {
        "training_seconds": training.seconds,
        "training_was_interrupted": training.interrupted,
        "training_steps": training.fit.num_steps,
        "best_step": training.fit.best_step,
        "stopped": training.fit.stopped,
        "checkpoint_reused": training.reused,
        "sampling_steps_mean": steps,
        "likelihood_steps_mean": values.mean_steps,
        "hutchinson_z_mean": float(z.mean()),
        "hutchinson_z_standard_deviation": float(z.std()),
        "hutchinson_standard_error_mean": float(values.standard_error.mean()),
        "posterior_noise_std": NOISE_STD,
        "posterior_residual_per_noise_unit": float(np.sqrt(np.mean(posteriors.residual**2))),
        "posterior_hidden_half_rms_error_of_mean": float(np.sqrt(np.mean(error**2))),
        "posterior_hidden_half_rms_error_expected": float(np.sqrt(np.mean(expected))),
    }


def sentences(facts: dict[str, Any], prior_error: float) -> list[str]:
    """The results in sentences."""
    trained = "reused from an earlier run" if facts["checkpoint_reused"] else "trained now"
    if facts["training_was_interrupted"]:
        trained += "; the time since an interruption"
    error = facts["posterior_hidden_half_rms_error_of_mean"]
    expected = facts["posterior_hidden_half_rms_error_expected"]
    return [
        f"Training: {facts['training_seconds']:.0f} s on {_cores()} cores, {facts['training_steps']:,} steps, best at "
        f"{facts['best_step']:,} ({trained}). {facts['stopped']}",
        f"Adaptive solves: {facts['sampling_steps_mean']:.1f} steps per sample, {facts['likelihood_steps_mean']:.1f} "
        "per log-likelihood.",
        f"Hutchinson: standard error {facts['hutchinson_standard_error_mean']:.2f} nats per image; the errors "
        f"divided by their standard errors have standard deviation {facts['hutchinson_z_standard_deviation']:.2f}.",
        f"Posterior: the residual is {facts['posterior_residual_per_noise_unit']:.2f} noise standard deviations "
        f"(expected: 1). In the hidden half, the mean of the draws has an rms error of {error:.3f} (expected from the "
        f"spread of the draws: {expected:.3f}), and the mean of the training images {prior_error:.3f}.",
    ]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def main() -> None:
    """Runs every stage and writes the report."""
    args = arguments()
    start, stage, quick = time.perf_counter(), Stopwatch(), args.quick
    settings = flow.QUICK if quick else flow.Settings()
    digits = data.load()
    training = stage("training", flow.train, digits, settings, args.out, progress=not args.no_progress)
    model = training.fit.model
    samples, steps = stage("sampling", flow.draw, model, digits, 100 if quick else 400)
    strip = stage("paths", flow.paths, model, digits, 4, TIMES)
    rows, values, chosen = compare(digits, model, settings, stage, quick)
    hidden = data.dequantise(digits.test, seed=3)[: 6 if quick else 40]
    posteriors = stage("posteriors", flow.posteriors, model, digits, hidden, num_draws=6, noise_std=NOISE_STD)
    drawn = {
        "samples": figures.samples(samples, 10 if quick else 25),
        "trajectory": figures.trajectory(strip, TIMES),
        "calibration": figures.calibration(values),
        "posterior": figures.posterior(posteriors, NOISE_STD, 6),
        "training": figures.training(training),
    }
    pictures = []
    for name, (figure, caption) in drawn.items():
        files.write_figure(args.out / f"{name}.png", figure)
        pictures.append((args.out / f"{name}.png", caption))
    half = data.SIZE // 2
    prior_error = float(np.sqrt(np.mean((digits.mean[half:] - hidden[:, half:]) ** 2)))
    found = facts(training, values, posteriors, steps)
    lines = sentences(found, prior_error)
    metrics = {
        "quick": quick,
        "settings": settings._asdict(),
        "test": {row[0]: report.row_metrics(row) for row in rows},
        **chosen,
        **found,
        "hidden_half_rms_error_of_training_mean": prior_error,
        "seconds": stage.seconds,
        "total_seconds": round(time.perf_counter() - start, 2),
        "machine": {"cores": _cores(), "backend": jax.default_backend(), "jax": jax.__version__},
        "flowrax": frx.__version__,
    }
    files.write_text(args.out / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    files.write_text(args.out / "report.html", report.page(rows, lines, pictures))
    print(f"\n{report.summary(rows, lines)}\nreport: {args.out / 'report.html'}")


if __name__ == "__main__":
    main()
