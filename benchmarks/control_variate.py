"""Compares `ControlVariate` with plain probes at equal cost, for networks trained for a short time.

The data are 8 x 8 digits, and the same digits enlarged to 28 x 28 with added noise. The exact divergence at the ends
of the steps costs as much as `d / 6` probes for the six stages of Dopri5, so the plain estimate uses that many more
probes. Prints the root mean square difference in nats from the solve with the exact divergence on the same grid or at
the same tolerance, and the processor time relative to that solve. Run as `python -m benchmarks.control_variate`.
"""

import functools
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

import flowrax as frx
from benchmarks.trace_estimators import digits, trained

STAGES = 6


def enlarged():
    small = digits().reshape(-1, 8, 8)
    large = jax.image.resize(small, (len(small), 28, 28), "linear").reshape(-1, 784)
    return np.asarray(large + 0.1 * jax.random.normal(jax.random.key(9), large.shape))


def seconds(functions, repeats=5):
    """The median processor time of each function; the functions are run in turn."""
    times = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.process_time()
            jax.block_until_ready(function(jax.random.key(0)).value)
            times[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def solve(model, x, divergence, steps, key):
    return frx.log_prob(model, x, key=key, divergence=divergence, **steps)


def table(size, data, num_train, num_points, num_keys):
    model = trained(data, num_train)
    x = jnp.asarray(data[:num_points])
    for steps in ({"grid": 8}, {"grid": 16}, {"rtol": 1e-5, "atol": 1e-5}):
        for num_probes in (1, 4, 16):
            equal = num_probes + round(size / STAGES)
            divergences = {
                "exact": frx.Exact(),
                "plain": frx.Hutchinson(equal),
                "corrected": frx.ControlVariate(frx.Hutchinson(num_probes)),
            }
            solves = {
                name: functools.partial(solve, model, x, divergence, steps) for name, divergence in divergences.items()
            }
            exact = solves["exact"](jax.random.key(0))
            errors = {
                name: np.sqrt(np.mean([(of(jax.random.key(k)).value - exact.value) ** 2 for k in range(num_keys)]))
                for name, of in solves.items()
            }
            costs = seconds(solves)
            taken = f"{float(np.mean(exact.stats.num_steps)):.1f}"
            cells = [f"{errors[name]:.3f} | {costs[name] / costs['exact']:.2f}" for name in ("plain", "corrected")]
            print(f"| {size} | {taken} | {num_probes} | {equal} | " + " | ".join(cells) + " |", flush=True)


def main():
    print("| d | steps | probes with exact ends | plain probes, equal cost | plain | time | corrected | time |")
    print("|---|---|---|---|---|---|---|---|")
    short = 4 if "--quick" in sys.argv else 1
    table(64, digits(), 1500 // short, 64 // short, 8)
    table(784, enlarged(), 1500 // short, 16 // short, 4)


if __name__ == "__main__":
    main()
