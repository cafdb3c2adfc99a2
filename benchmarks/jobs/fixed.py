"""The cost of `sample` on a fixed grid relative to a hand-written scan of the same arithmetic."""

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import flowrax as frx

from .. import harness, nets

TITLE = "Fixed grid, Heun and Euler of 100 steps"
STEPS = 100


def run(report, quick):
    n, rounds = (200, 3) if quick else (2000, 7)
    model, x0 = nets.mixture(), nets.noise(n, 64)
    report.setting(samples=n, dimensions=64, steps=STEPS, rounds=rounds)
    for name, solver, step in (("Heun", dfx.Heun(), heun), ("Euler", dfx.Euler(), euler)):
        by_hand = scanned(model, step)
        variants = {
            "flowrax": lambda s=solver: grid(model, x0, s),
            "lax.scan": lambda f=by_hand: jax.block_until_ready(f(x0)),
        }
        gap = float(jnp.max(jnp.abs(variants["flowrax"]() - variants["lax.scan"]())))
        assert gap < 1e-3, f"the two loops differ by {gap}"
        times = harness.alternate(variants, rounds, at_least=0.3)
        report.timing(times, name)
        report.compare(f"{name} {STEPS}: flowrax / lax.scan", times, "flowrax", "lax.scan", clock="cpu", at_most=1.03)


def grid(model, x0, solver):
    return frx.sample(model, jax.random.key(0), x0.shape[0], x0=x0, solver=solver, grid=STEPS).x.block_until_ready()


def euler(field, t, x, h):
    return x + h * field(t, x)


def heun(field, t, x, h):
    first = field(t, x)
    return x + h / 2 * (first + field(t + h, x + h * first))


def scanned(model, step):
    times = jnp.asarray(np.arange(STEPS) / STEPS, jnp.float32)

    @eqx.filter_jit
    def solve(model, x):
        batched = jax.vmap(nets.velocity(model), in_axes=(None, 0))
        return jax.lax.scan(lambda x, t: (step(batched, t, x, 1 / STEPS), None), x, times)[0]

    return lambda x: solve(model, x)
