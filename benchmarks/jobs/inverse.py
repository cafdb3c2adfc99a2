"""Posteriors: draws, mode weights and evidence of each method, against the closed form.

Mixtures of 25 Gaussians with means (8i, 8j, 8i, ...), random weights, a random operator and random noise, as in
Cardoso et al. (2023), and a Gaussian process. Each case is kept on disk, so that a run that was killed goes on where it
stopped.
"""

import hashlib
import json
import time
import warnings

import jax
import numpy as np

import flowrax as frx

from .. import environment, harness

TITLE = "Posteriors"
DRAWS, SEEDS, KEYS = 1000, 8, 100
# Sliced Wasserstein-1 over its sampling floor that tempered SMC has to reach, and events of which size.
LIMITS = {8: 1.15, 80: 1.3, 800: 1.6}
ROWS = (1, 2, 4)


def run(report, quick):
    seeds, keys = (1, 2) if quick else (SEEDS, KEYS)
    report.setting(draws=DRAWS, problems=seeds, keys=keys)
    for d, limit in {8: 1.15}.items() if quick else LIMITS.items():
        for rows in ROWS:
            for name in METHODS if d == 8 else ("tempered SMC",):
                found = [kept(mixture, d, rows, seed, name) for seed in range(seeds)]
                report.point(name, f"mixture, d = {d}, {rows} measured", **summary(found))
                if name == "tempered SMC":
                    value = np.median([case["distance"] for case in found])
                    report.bar(f"d = {d}, {rows} measured: sliced W1 / floor", value, at_most=limit)
    process(report)
    evidence(report, keys)


METHODS = {
    "tempered SMC": dict(method=frx.TemperedSMC()),
    "twisted SMC": dict(method=frx.TwistedSMC()),
    "TMPD": dict(method=frx.TMPD(), dynamics=frx.ReverseSDE(), grid=200),
    "PiGDM": dict(method=frx.PiGDM(), dynamics=frx.ReverseSDE(), grid=200),
    "DPS": dict(method=frx.DPS(), dynamics=frx.ReverseSDE(), grid=200),
}


def summary(found):
    """Medians, and ranges of what varies most."""
    medians = {key: np.median([case[key] for case in found]) for key in found[0]}
    distances = [case["distance"] for case in found]
    return {
        **medians,
        "lowest": min(distances),
        "highest": max(distances),
        "warned": np.mean([c["warned"] for c in found]),
    }


def kept(function, *arguments):
    """The result of a case, from the disk if an earlier run has found it."""
    name = hashlib.sha256(json.dumps([function.__name__, *arguments]).encode()).hexdigest()[:16]
    path = environment.CACHE / "inverse" / f"{name}.json"
    if not path.exists():
        harness.write_json(path, function(*arguments))
    return json.loads(path.read_text())


def problem(d, rows, seed):
    """The prior, the operator, the measured values and the standard deviation of their noise."""
    rng = np.random.default_rng([d, rows, seed])
    steps = range(-2, 3)
    means = np.array([[8.0 * (j if k % 2 else i) for k in range(d)] for i in steps for j in steps])
    weights = rng.chisquare(1, 25)
    weights /= weights.sum()
    oracle = frx.oracle.GaussianMixture(weights, means, np.stack([np.eye(d)] * 25))
    left, _, right = np.linalg.svd(rng.normal(size=(rows, d)), full_matrices=False)
    gains = np.sort(rng.uniform(size=rows))[::-1]
    operator, noise = (left * gains) @ right, rng.uniform() * gains.max()
    x = means[rng.choice(25, p=weights)] + rng.normal(size=d)
    return oracle, operator, operator @ x + noise * rng.normal(size=rows), noise


def mixture(d, rows, seed, name):
    """Draws of one posterior by one method, compared with as many exact ones."""
    oracle, operator, y, noise = problem(d, rows, seed)
    covariance = noise**2 * np.eye(rows)
    exact, log_evidence = oracle.posterior(operator, y, covariance), oracle.log_evidence(operator, y, covariance)
    model, observation = oracle.model(frx.Linear()), frx.LinearGaussian(operator, y, noise)
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        draws = frx.posterior(model, observation, jax.random.key(seed), DRAWS, throw=False, **METHODS[name])
    jax.block_until_ready(draws.x)
    seconds = time.perf_counter() - start
    reference, other, many = (
        np.asarray(exact.sample(jax.random.key(k), (n,))) for k, n in ((1, DRAWS), (2, DRAWS), (3, 20_000))
    )
    weights = np.asarray(draws.weights, np.float64)
    rng = np.random.default_rng(seed)
    points = (rng.uniform() + np.arange(DRAWS)) / DRAWS * weights.sum()
    x = np.nan_to_num(np.asarray(draws.x))[np.minimum(np.searchsorted(np.cumsum(weights), points), DRAWS - 1)]
    floor = sliced(other, reference, rng)
    shares = modes(many, exact) - modes(x, exact)
    answer = {
        "distance": sliced(x, reference, rng) / floor,
        "variation": 0.5 * np.abs(shares).sum(),
        "evaluations": float(np.mean(draws.stats.num_evaluations)),
        "seconds": seconds,
        "warned": float(len(draws.warnings) > 0),
    }
    return answer | judged(draws, log_evidence)


def judged(draws, log_evidence):
    """The deviation of the evidence from the closed form, and its stated error; nothing without an evidence."""
    if draws.log_evidence is None:
        return {}
    return {"deviation": float(draws.log_evidence - log_evidence), "error": float(draws.log_evidence_error)}


def sliced(a, b, rng):
    """The sliced Wasserstein-1 distance of two samples of the same size, over 500 directions."""
    directions = rng.normal(size=(a.shape[1], 500))
    directions /= np.linalg.norm(directions, axis=0)
    return float(np.mean(np.abs(np.sort(a @ directions, axis=0) - np.sort(b @ directions, axis=0))))


def modes(x, exact):
    """The share of draws that are closest to each component of the posterior."""
    means = np.asarray(exact.means)
    squares = np.sum(x**2, axis=1)[:, None] - 2 * x @ means.T + np.sum(means**2, axis=1)[None]
    return np.bincount(np.argmin(squares, axis=1), minlength=len(means)) / len(x)


def process(report):
    """A Gaussian process of 16 points: the spread of the draws, the evidence and the time after compiling."""
    times = np.linspace(0, 1, 16)
    lags = np.sqrt(3) * np.abs(times[:, None] - times) / 0.3
    oracle = frx.oracle.Gaussian(np.zeros(16), (1 + lags) * np.exp(-lags) + 1e-6 * np.eye(16))
    rng = np.random.default_rng(0)
    operator = rng.normal(size=(6, 16))
    y = operator @ np.asarray(oracle.sample(jax.random.key(9))) + 0.1 * rng.normal(size=6)
    covariance = 0.01 * np.eye(6)
    exact, log_evidence = oracle.posterior(operator, y, covariance), oracle.log_evidence(operator, y, covariance)
    model, observation = oracle.model(frx.Linear()), frx.LinearGaussian(operator, y, 0.1)
    spread = np.sqrt(np.diag(exact.covariance))
    for name, method in {
        "default": None,
        "tempered SMC": frx.TemperedSMC(),
        "TMPD": frx.TMPD(),
        "PiGDM": frx.PiGDM(),
    }.items():
        grid = None if name in ("default", "tempered SMC") else 64
        frx.posterior(model, observation, jax.random.key(0), 4000, method=method, grid=grid)
        start = time.perf_counter()
        draws = frx.posterior(model, observation, jax.random.key(1), 4000, method=method, grid=grid)
        jax.block_until_ready(draws.x)
        seconds = time.perf_counter() - start
        ratio = np.std(draws.x, axis=0) / spread
        values = {"mean_ratio": ratio.mean(), "lowest": ratio.min(), "highest": ratio.max(), "seconds": seconds}
        report.point(name, "Gaussian process: spread of the draws / exact", **values, **judged(draws, log_evidence))
        if name == "default":
            report.bar("Gaussian process: error of the mean spread", abs(ratio.mean() - 1), at_most=0.02)
            report.bar("Gaussian process: seconds after compiling", seconds, at_most=10)


def evidence(report, keys):
    """The errors of the evidence of one mixture in units of their stated standard errors."""
    cases = [kept(deviation, key) for key in range(keys)]
    scores = np.array([case["deviation"] / case["error"] for case in cases])
    report.bar("log-evidence: variance of the scores", np.var(scores), at_most=1.4)
    report.bar("log-evidence: largest score", np.abs(scores).max(), at_most=4)
    report.number("log-evidence: mean deviation", np.mean([case["deviation"] for case in cases]), "nats")


def deviation(key):
    oracle, operator, y, noise = problem(8, 2, 0)
    model, observation = oracle.model(frx.Linear()), frx.LinearGaussian(operator, y, noise)
    draws = frx.posterior(model, observation, jax.random.key(1000 + key), DRAWS, method=frx.TemperedSMC())
    exact = oracle.log_evidence(operator, y, noise**2 * np.eye(2))
    return judged(draws, exact)
