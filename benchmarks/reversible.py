"""Time, memory and rounding error of the gradient through 50, 500 and 5,000 steps of reversible Heun, by adjoint.

Prints a table for 256 samples in two dimensions and an MLP of 3 x 256 SiLU units: the processor time of value and
gradient, in seconds and relative to the forward pass (medians of five alternating runs), the temporary memory of the
compiled program, and the relative root mean square error of the float32 gradient against float64, also relative to the
error of plain autodiff. Gradients with respect to x0 map over the samples, as `sample` does. Gradients with respect to
x0 and the weights come from one solve of the stacked batch, which sums the cotangents of the weights at each step. Run
as `python benchmarks/reversible.py [steps ...]`.
"""

import os
import sys
import time

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import flowrax as frx

BATCH, WIDTH, REPEATS = 256, 256, 5
ADJOINTS = {
    "ReversibleAdjoint": frx.ReversibleAdjoint(),
    "RecursiveCheckpointAdjoint": dfx.RecursiveCheckpointAdjoint(),
}


class Field(eqx.Module):
    mlp: eqx.nn.MLP

    def __call__(self, t, x, args):
        phase = t * jnp.arange(1, 5, dtype=x.dtype)
        return self.mlp(jnp.concatenate([x, jnp.sin(phase), jnp.cos(phase)]))


def loss(field, x0, num_steps, adjoint, stacked):
    times = jnp.linspace(0, 1, num_steps + 1, dtype=x0.dtype)

    def end(x, over_batch):
        term = dfx.ODETerm(lambda t, x, field: over_batch(lambda x: field(t, x, None))(x))
        steps = dfx.StepTo(ts=times)
        ys = dfx.diffeqsolve(
            term,
            dfx.ReversibleHeun(),
            times[0],
            times[-1],
            None,
            x,
            field,
            stepsize_controller=steps,
            adjoint=adjoint,
            max_steps=num_steps,
        ).ys
        assert ys is not None
        return ys[0]

    ends = end(x0, jax.vmap) if stacked else jax.vmap(lambda x: end(x, lambda f: f))(x0)
    return jnp.mean(jnp.sum(ends**2, axis=-1))


def scanned(field, x0, num_steps):
    """The same scheme by `lax.scan` and plain autodiff."""
    solver, times = dfx.ReversibleHeun(), jnp.linspace(0, 1, num_steps + 1, dtype=x0.dtype)
    term = dfx.ODETerm(lambda t, x, field: jax.vmap(lambda x: field(t, x, None))(x))

    def step(carry, interval):
        y, _, _, state, _ = solver.step(term, interval[0], interval[1], carry[0], field, carry[1], False)
        return (y, state), None

    start = x0, solver.init(term, times[0], times[1], x0, field)
    (y, _), _ = jax.lax.scan(jax.checkpoint(step), start, (times[:-1], times[1:]))
    return jnp.mean(jnp.sum(y**2, axis=-1))


def medians(calls):
    for call in calls:
        jax.block_until_ready(call())
    seconds = np.zeros((REPEATS, len(calls)))
    for row in seconds:
        for i, call in enumerate(calls):
            before = time.process_time()
            jax.block_until_ready(call())
            row[i] = time.process_time() - before
    return np.median(seconds, axis=0)


def relative_error(gradient, exact):
    pairs = zip(jax.tree.leaves(gradient), jax.tree.leaves(exact), strict=True)
    pairs = [(np.asarray(a, np.float64), np.asarray(b)) for a, b in pairs]
    return np.sqrt(sum(np.sum((a - b) ** 2) for a, b in pairs) / sum(np.sum(b**2) for _, b in pairs))


def differentiated(function, stacked):
    return jax.jit(jax.value_and_grad(function, (0, 1) if stacked else 1))


def rows(arrays, static, x0, num_steps, stacked):
    """The rows of the table, one for each adjoint."""
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), (arrays, x0))
        exact = differentiated(lambda a, x: scanned(eqx.combine(a, static), x, num_steps), stacked)(*wide)[1]
        exact = jax.tree.map(np.asarray, exact)
    plain = differentiated(lambda a, x: scanned(eqx.combine(a, static), x, num_steps), stacked)(arrays, x0)[1]
    baseline, calls, memory, errors = relative_error(plain, exact), [], [], []
    for adjoint in ADJOINTS.values():

        def value(arrays, x0, adjoint=adjoint):
            return loss(eqx.combine(arrays, static), x0, num_steps, adjoint, stacked)

        compiled = differentiated(value, stacked).lower(arrays, x0).compile()
        analysis = compiled.memory_analysis()
        assert analysis is not None
        memory.append(analysis.temp_size_in_bytes / 1e6)
        errors.append(relative_error(compiled(arrays, x0)[1], exact))
        calls += [lambda f=jax.jit(value): f(arrays, x0), lambda f=compiled: f(arrays, x0)]
    seconds = medians(calls)
    for i, name in enumerate(ADJOINTS):
        forward, both = seconds[2 * i : 2 * i + 2]
        cells = (f"{both:.3f}", f"{both / forward:.2f}", f"{memory[i]:.2f}", f"{errors[i]:.1e}")
        cells += (f"{errors[i] / baseline:.2f}",)
        yield f"| {num_steps} | {'x0, weights' if stacked else 'x0'} | {name} | " + " | ".join(cells) + " |"


def main():
    net = Field(eqx.nn.MLP(10, 2, WIDTH, 3, jax.nn.silu, key=jax.random.key(0)))
    arrays, static = eqx.partition(net, eqx.is_array)
    x0 = jax.random.normal(jax.random.key(1), (BATCH, 2))
    print(f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(
        "| steps | gradient with respect to | adjoint | seconds | time / forward | temporary MB | error "
        "| error / autodiff's |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for num_steps in [int(argument) for argument in sys.argv[1:]] or [50, 500, 5000]:
        for stacked in (False, True):
            for row in rows(arrays, static, x0, num_steps, stacked):
                print(row, flush=True)


if __name__ == "__main__":
    main()
