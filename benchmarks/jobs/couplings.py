"""Couplings: how far minibatch plans are from the map of the population, and what each coupling buys a trained flow.

Each case is kept on disk, so that a run that was killed goes on where it stopped.
"""

import hashlib
import json
import time
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import flowrax as frx
from flowrax import coupling as cpl

from .. import environment, harness

TITLE = "What couplings buy"
BATCH, TOLERANCE = 1024, 1e-3
REGS = (0.05, 0.02, 0.005)
# These bound the time of all cases to half an hour on one core.
STEPS, QUICK_STEPS, SEEDS = 400, 20, 3


def run(report, quick):
    steps, seeds = (QUICK_STEPS, 1) if quick else (STEPS, SEEDS)
    report.setting(batch=BATCH, steps=steps, seeds=seeds, tolerance=TOLERANCE)
    for d in (2,) if quick else (2, 16, 64):
        bias(report, d, quick)
    for name, data in {"mixture of 25": grid_of_gaussians(), "digits": digits()}.items():
        found = {}
        for seed in range(seeds):
            for method in methods():
                found.setdefault(method, []).append(kept(case, name, method, seed, steps, data=data))
        for method, rows in found.items():
            means = {key: np.mean([row[key] for row in rows]) for key in rows[0]}
            spreads = {f"{key}_spread": np.std([row[key] for row in rows]) for key in rows[0]}
            report.point(method, name, **means, **spreads)
        judge(report, name, found)
    potentials(report, quick)
    step_time(report, quick)


def judge(report, name, found):
    mean = {method: {key: np.mean([row[key] for row in rows]) for key in rows[0]} for method, rows in found.items()}
    best = min((m for method, m in mean.items() if method.startswith(("exact", "Sinkhorn"))), key=lambda m: -m["nats"])
    ours = mean["semidiscrete"]
    report.bar(f"{name}: held-out nats, semidiscrete - best minibatch plan", ours["nats"] - best["nats"], at_least=0)
    report.bar(f"{name}: evaluations, semidiscrete / that plan", ours["evaluations"] / best["evaluations"], at_most=1)


def potentials(report, quick):
    """The time of fitting potentials to all digits, compilation included, and the cost of the pairs."""
    rows = jnp.concatenate(digits())
    start = time.perf_counter()
    record = fitted(rows, 50 if quick else 1000).record
    report.number("digits: seconds for the potentials, with compilation", time.perf_counter() - start, "s")
    report.number("digits: chi-squared of the masses", float(record.chi_squared), f"(floor {float(record.floor):.3f})")
    report.bar("digits: mean cost of semidiscrete pairs", float(record.mean_cost), at_most=95)


def step_time(report, quick):
    """One step of training on 10,000 rows: noise paired with the whole data set, and independent noise."""
    for d in (2, 64):
        rows = jax.random.normal(jax.random.key(12), (10_000, d))
        network = frx.nn.ResidualMLP((d,), key=jax.random.key(13), width=128, depth=2)
        model = frx.Model(network, frx.Linear(), shape=(d,))
        semidiscrete = cpl.Semidiscrete(rows, model.prior)
        steps = 50 if quick else 200

        def train(chosen, model=model, rows=rows, steps=steps):
            fit = frx.fit(model, rows, jax.random.key(14), coupling=chosen, num_steps=steps, progress=False)
            return jax.block_until_ready(eqx.filter(fit.model.network, eqx.is_array))

        variants = {
            "semidiscrete": lambda train=train, chosen=semidiscrete: train(chosen),
            "independent": lambda train=train: train(frx.Independent()),
        }
        times = harness.alternate(variants, 3 if quick else 7)
        title = f"{d}-d, 10,000 rows: a step with semidiscrete / with independent pairs"
        report.compare(title, times, "semidiscrete", "independent", clock="cpu", at_most=1.15)


def methods():
    """The couplings by name; None for what is fitted to the data or to a flow."""
    exact = {f"exact, {size} rows": frx.ExactOT(block_size=size) for size in (64, 256, 1024)}
    entropic = {f"Sinkhorn, reg {reg:g}": cpl.Sinkhorn(reg) for reg in REGS}
    unbalanced = {"unbalanced": cpl.UnbalancedSinkhorn()}
    return {"independent": frx.Independent(), **exact, **entropic, **unbalanced, "semidiscrete": None, "reflow": None}


def kept(function, *arguments, **rest):
    """The result of a case, from the disk if an earlier run has found it."""
    name = hashlib.sha256(json.dumps(arguments).encode()).hexdigest()[:16]
    path = environment.CACHE / "couplings" / f"{name}.json"
    if not path.exists():
        harness.write_json(path, function(*arguments, **rest))
    return json.loads(path.read_text())


def bias(report, d, quick):
    """The mean squared distance, per dimension, of the paired datum from the image of the noise under the map between
    the two Gaussians, whose covariance is diagonal."""
    scale = jnp.linspace(0.3, 2.0, d)
    data = 3 + scale * jax.random.normal(jax.random.key(1), (2_000 if quick else 10_000, d))
    settings = {f"{name}, batch {n}": (c, n) for n in (64, 256, 1024) for name, c in bias_couplings(n).items()}
    with warnings.catch_warnings():
        # A plan that did not converge is a result of this table.
        warnings.simplefilter("ignore")
        settings["semidiscrete"] = fitted(data, 100 if quick else 3000), 1024
    for name, (coupling, n) in settings.items():
        pair = eqx.filter_jit(lambda key, x0, x1, c=coupling: pairs_of(c, key, x0, x1))
        errors, costs = [], []
        for key in jax.random.split(jax.random.key(2), 2 if quick else max(4, 4096 // n)):
            x0 = jax.random.normal(key, (n, d))
            rows = jax.random.randint(jax.random.fold_in(key, 1), (n,), 0, len(data))
            pairs = pair(key, x0, data[rows])
            errors.append(float(jnp.mean((pairs.x1 - 3 - scale * pairs.x0) ** 2)))
            costs.append(float(jnp.mean(jnp.sum((pairs.x1 - pairs.x0) ** 2, axis=1))))
        report.point(name, f"map between Gaussians, d = {d}", error=np.mean(errors), cost=np.mean(costs))


def bias_couplings(n):
    return {
        "independent": frx.Independent(),
        "exact": frx.ExactOT(block_size=n),
        **{f"Sinkhorn, reg {reg:g}": cpl.Sinkhorn(reg) for reg in REGS},
    }


def pairs_of(coupling, key, x0, x1):
    return coupling.pairs(key, x0) if isinstance(coupling, cpl.Semidiscrete) else coupling(key, x0, x1)


def fitted(data, steps, prior=None):
    return frx.fit_semidiscrete(data, jax.random.key(4), prior=prior, num_steps=steps, progress=False)


def grid_of_gaussians():
    """A mixture of 25 Gaussians on a grid of the plane: training rows and held-out rows."""
    centres = 2.0 * np.stack(np.meshgrid(*[np.arange(-2, 3)] * 2), -1).reshape(-1, 2)
    law = frx.oracle.GaussianMixture(np.ones(25), centres, np.tile(0.01 * np.eye(2), (25, 1, 1)))
    rows = law.sample(jax.random.key(8), (5_000,))
    return rows[:4_000], rows[4_000:]


def digits():
    """Digits, dequantised once; each pixel has mean zero and variance one."""
    from sklearn.datasets import load_digits

    images = jnp.asarray(load_digits(return_X_y=True)[0], jnp.float32)
    rows = (images + jax.random.uniform(jax.random.key(9), images.shape)) / 17 * 2 - 1
    rows = (rows - jnp.mean(rows, axis=0)) / jnp.std(rows, axis=0)
    order = jax.random.permutation(jax.random.key(10), len(rows))
    return rows[order[180:]], rows[order[:180]]


def case(name, method, seed, steps, *, data):
    """Trains one flow and measures it."""
    rows, held_out = data
    d, key = rows.shape[1], jax.random.key(seed)
    model = frx.Model(frx.nn.ResidualMLP((d,), key=key, width=128, depth=2), frx.Linear(), shape=(d,))
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        chosen = methods()[method]
        if method == "semidiscrete":
            chosen = fitted(rows, 4 * steps, model.prior)
        if method == "reflow":
            teacher = train(model, rows, key, frx.Independent(), steps)
            flow = frx.sample
            chosen = cpl.Reflow(lambda x0, key, c: flow(teacher, key, len(x0), x0=x0, grid=8).x)
        before = time.perf_counter()
        trained = train(model, rows, key, chosen, steps)
    end = time.perf_counter()
    return measures(trained, chosen, rows, held_out) | {"step_ms": 1e3 * (end - before) / steps, "seconds": end - start}


def train(model, rows, key, coupling, steps):
    optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, steps))
    options = {"optimizer": optimizer, "num_steps": steps, "batch_size": BATCH, "ema_decay": 0.99, "progress": False}
    trained = frx.fit(model, rows, jax.random.fold_in(key, 1), coupling=coupling, **options).model
    jax.block_until_ready(eqx.filter(trained, eqx.is_array))
    return trained


def measures(trained, coupling, rows, held_out):
    key = jax.random.key(11)
    x0 = jax.random.normal(key, (BATCH, rows.shape[1]))
    batch = rows[jax.random.randint(key, (BATCH,), 0, len(rows))]
    pairs = eqx.filter_jit(pairs_of)(coupling, key, x0, batch)
    few = x0[:256]
    drawn = frx.sample(trained, key, len(few), x0=few, rtol=TOLERANCE, atol=TOLERANCE)
    # The action of the flow over the squared distance of its ends: one for straight paths.
    times = (jnp.arange(32) + 0.5) / 32

    @eqx.filter_jit
    def energy(x0):
        def path(x, t):
            v = jax.vmap(lambda x: trained.predict(t, x).velocity)(x)
            return x + v / 32, jnp.mean(jnp.sum(v**2, axis=1))

        end, speeds = jax.lax.scan(path, x0, times)
        return jnp.mean(speeds) / jnp.mean(jnp.sum((end - x0) ** 2, axis=1))

    nats = frx.log_prob(trained, held_out[:180], rtol=TOLERANCE, atol=TOLERANCE).value
    return {
        "cost": float(jnp.mean(jnp.sum((pairs.x1 - pairs.x0) ** 2, axis=1))),
        "straightness": float(energy(few)),
        "evaluations": float(jnp.mean(drawn.stats.num_evaluations)),
        "nats": float(jnp.mean(nats)),
    }
