"""The cost of the noise in 1,000 Euler-Maruyama steps in 64 dimensions."""

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import flowrax as frx

from .. import harness, nets

TITLE = "SDE, Euler-Maruyama of 1,000 steps, 64-d"


def run(report, quick):
    n, steps, rounds = (64, 100, 3) if quick else (256, 1000, 5)
    model, x0 = nets.mixture(), nets.noise(n, 64)
    dynamics = frx.ReverseSDE(frx.dynamics.Sigma())
    report.setting(samples=n, dimensions=64, steps=steps, rounds=rounds, diffusion="w = sigma(t)")
    by_hand = scanned(model, dynamics, steps)
    tree = through_tree(model, dynamics, steps)
    variants = {
        "flowrax": lambda: draw(model, x0, steps, dynamics),
        "lax.scan, fold_in noise": lambda: jax.block_until_ready(by_hand(x0)),
        "flowrax, no noise": lambda: draw(model, x0, steps, None),
        "diffrax, VirtualBrownianTree": lambda: jax.block_until_ready(tree(x0)),
    }
    spread = [float(jnp.std(variants[name]())) for name in ("flowrax", "lax.scan, fold_in noise")]
    assert np.allclose(*spread, rtol=0.1), f"the two loops have standard deviations {spread}"
    times = harness.alternate(variants, rounds)
    report.timing(times)
    one, scan, still, slow = variants
    report.compare("flowrax / lax.scan with fold_in noise", times, one, scan, clock="cpu", at_most=1.05)
    report.compare("flowrax / the noiseless solve", times, one, still, clock="cpu", at_most=1.15)
    report.compare("diffrax with VirtualBrownianTree / flowrax", times, slow, one, clock="cpu", at_least=3)


def draw(model, x0, steps, dynamics):
    key = jax.random.key(0)
    answer = frx.sample(model, key, x0.shape[0], x0=x0, dynamics=dynamics, solver=dfx.Euler(), grid=steps)
    return answer.x.block_until_ready()


def scanned(model, dynamics, steps):
    """A hand-written loop with one key per sample, into which the index of each step is folded."""
    low, high = dynamics.interval(model)
    h = (high - low) / steps
    times = jnp.asarray(low + h * np.arange(steps), jnp.float32)

    @eqx.filter_jit
    def solve(model, x):
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), jnp.arange(x.shape[0]))

        def step(x, inputs):
            t, k = inputs

            def one(x, key):
                noise = jax.random.normal(jax.random.fold_in(key, k), x.shape, x.dtype)
                scale = jnp.sqrt(2 * dynamics.coefficient(model.schedule, t) * h)
                return x + h * dynamics.drift(t, x, (model, None)) + scale * noise

            return jax.vmap(one)(x, keys), None

        return jax.lax.scan(step, x, (times, jnp.arange(steps)))[0]

    return lambda x: solve(model, x)


def through_tree(model, dynamics, steps):
    """Plain diffrax with a `VirtualBrownianTree`, because its default adjoint rejects a path without a tree."""
    low, high = dynamics.interval(model)
    h = (high - low) / steps

    @eqx.filter_jit
    def solve(model, x):
        def one(x, key):
            tree = dfx.VirtualBrownianTree(low, high, h / 2, jax.ShapeDtypeStruct(x.shape, x.dtype), key)
            terms, args = dynamics.terms(model, None, lambda shape, index: tree)
            solution = dfx.diffeqsolve(terms, dfx.Euler(), low, high, h, x, args, max_steps=steps + 1)
            assert solution.ys is not None
            return solution.ys[0]

        keys = jax.random.split(jax.random.key(0), x.shape[0])
        return jax.vmap(one)(x, keys)

    return lambda x: solve(model, x)
