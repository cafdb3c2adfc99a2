"""The cost and the precision of divergences of a 3 x 256 SiLU network.

Prints the time of field and divergence relative to the time of the field alone (medians of alternating runs in one
process), then, for a network trained for a short time on 8 x 8 digits, the standard deviation of each estimator of the
trace with 24 products. Run as `python benchmarks/trace_estimators.py`; `--quick` runs two dimensions only.
"""

import functools
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import flowrax as frx
from flowrax.divergence import GaussianProbes, Hadamard, Rademacher, Sphere

ROWS = {2: 10_000, 8: 4_000, 64: 2_000, 784: 64}
CHUNKS = {2: (2,), 8: (4, 8), 64: (2, 4, 8, 16, 64), 784: (1, 4, 16, 49)}


def medians(functions, repeats=5):
    """The median time of each function in seconds; the functions are run in turn."""
    for function in functions.values():
        jax.block_until_ready(function())
    times = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.perf_counter()
            jax.block_until_ready(function())
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def costs(size):
    network = frx.nn.MLP((size,), key=jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (ROWS[size], size))
    t = jax.random.uniform(jax.random.key(2), (ROWS[size],))
    divergences = {f"exact, chunks of {chunk}": frx.Exact(chunk) for chunk in CHUNKS[size]}
    divergences |= {f"hutchinson {num}": frx.Hutchinson(num) for num in (1, 8)}
    divergences |= (
        {"hutch++ 12": frx.divergence.HutchPP(12), "xtrace 12": frx.divergence.XTrace(12)} if size > 12 else {}
    )

    def evaluate(divergence, t, x, probes):
        return divergence(lambda x: network(t, x, None), x, probes)

    functions = {"field": functools.partial(jax.jit(jax.vmap(lambda t, x: network(t, x, None))), t, x)}
    for name, divergence in divergences.items():
        keys = jax.random.split(jax.random.key(3), ROWS[size])
        probes = None if isinstance(divergence, frx.Exact) else jax.vmap(divergence.probes)(keys, x)
        functions[name] = functools.partial(jax.jit(jax.vmap(functools.partial(evaluate, divergence))), t, x, probes)
    times = medians(functions)
    for name in divergences:
        print(f"| {size} | {ROWS[size]} | {name} | {times[name] / times['field']:.2f} |", flush=True)


def trained(data, num_steps=1500):
    network = frx.nn.MLP(data.shape[1:], key=jax.random.key(0))
    model = frx.Model(network, frx.Linear(), frx.Velocity(), shape=data.shape[1:], dtype=np.float32)
    return frx.fit(
        model, data, jax.random.key(1), num_steps=num_steps, batch_size=256, optimizer=optax.adam(1e-3)
    ).model


def digits():
    images, _ = load_digits(return_X_y=True)
    data = np.asarray(images, np.float32)
    return (data - data.mean()) / data.std()


def deviations(num_products=24, num_points=8, num_draws=200):
    data = digits()
    model = trained(data)
    divergences = {
        type(probes).__name__.lower(): frx.Hutchinson(num_products, probes)
        for probes in (Rademacher(), Hadamard(), Sphere(), GaussianProbes())
    }
    divergences |= {"hutch++": frx.divergence.HutchPP(num_products), "xtrace": frx.divergence.XTrace(num_products)}
    keys = jax.random.split(jax.random.key(4), num_draws)
    for t in (0.3, 0.6, 0.9):
        noise = jax.random.normal(jax.random.key(5), (num_points, data.shape[1]))
        x = t * data[:num_points] + (1 - t) * noise

        def one(key, x, divergence, t=t):
            field = lambda x: model.predict(t, x, None).velocity  # noqa: E731
            return jnp.mean(divergence(field, x, divergence.probes(key, x))[1])

        for name, divergence in divergences.items():
            draws = jax.jit(jax.vmap(jax.vmap(functools.partial(one, divergence=divergence), (None, 0)), (0, None)))(
                keys, x
            )
            print(f"| {t} | {name} | {float(jnp.sqrt(jnp.mean(jnp.var(draws, axis=0)))):.2f} |", flush=True)


def main():
    print("| dimensions | rows | divergence | (field + divergence) / field |\n|---|---|---|---|")
    for size in (2,) if "--quick" in sys.argv else ROWS:
        costs(size)
    if "--quick" not in sys.argv:
        print("\n| t | estimator, 24 products | standard deviation |\n|---|---|---|")
        deviations()


if __name__ == "__main__":
    main()
