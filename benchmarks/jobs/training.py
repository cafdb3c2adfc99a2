"""Couplings and training at batch 4,096 in the plane."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import flowrax as frx

from .. import harness, nets, pieces

TITLE = "Couplings and training"
OPTIMIZER = optax.adam(1e-3)
BLOCK = 64


def run(report, quick):
    batch, steps, rounds = (512, 10, 3) if quick else (4096, 40, 5)
    report.setting(batch=batch, steps=steps, dimensions=2, rounds=rounds, block=BLOCK)
    with report.optional("Kabsch cost matrix"):
        kabsch(report, rounds)
    data = nets.ring().sample(jax.random.key(3), (20_000,))
    model = nets.model_of(nets.network(2), 2)
    by_hand = scanned(model, data, batch, steps)
    variants = {
        "flowrax": lambda: train(model, data, batch, steps, None),
        "lax.scan of gradient steps": lambda: jax.block_until_ready(by_hand(model.network)),
    }
    with report.optional("exact transport in blocks"):
        coupling = pieces.block_ot(BLOCK)
        variants["flowrax, exact transport in blocks"] = lambda: train(model, data, batch, steps, coupling)
    with report.optional("torchcfm"):
        variants["torchcfm"] = torchcfm(model, data, batch, steps)
    times = harness.alternate(variants, rounds)
    report.timing(times, f"{steps} steps")
    extra = harness.ratio(times, "flowrax", "lax.scan of gradient steps")
    report.number("flowrax (Adam, averaged weights) / a hand-written scan of plain gradient steps", extra.median)
    if "torchcfm" in times:
        report.compare("flowrax / torchcfm, a training step", times, "flowrax", "torchcfm", at_most=0.5)
    if "flowrax, exact transport in blocks" in times:
        name = "with exact transport in blocks / without, a training step"
        report.compare(name, times, "flowrax, exact transport in blocks", "flowrax", at_most=1.05)


def train(model, data, batch, steps, coupling):
    answer = frx.fit(
        model,
        data,
        jax.random.key(0),
        coupling=coupling,
        optimizer=OPTIMIZER,
        num_steps=steps,
        batch_size=batch,
        progress=False,
    )
    return jax.block_until_ready(jax.tree.leaves(eqx.filter(answer.model, eqx.is_array)))


def scanned(model, data, batch, steps):
    """A hand-written matching loss with plain gradient steps, without optimiser state or averaged weights."""

    def loss(network, key):
        keys = jax.random.split(key, 3)
        x1 = data[jax.random.randint(keys[0], (batch,), 0, len(data))]
        x0, t = jax.random.normal(keys[1], x1.shape), jax.random.uniform(keys[2], (batch, 1))
        return jnp.mean((jax.vmap(network)(t[:, 0], (1 - t) * x0 + t * x1) - (x1 - x0)) ** 2)

    @eqx.filter_jit
    def loop(network):
        arrays, static = eqx.partition(network, eqx.is_inexact_array)

        def step(arrays, k):
            key = jax.random.fold_in(jax.random.key(0), k)
            gradient = jax.grad(lambda a: loss(eqx.combine(a, static), key))(arrays)
            return jax.tree.map(lambda a, g: a - 1e-3 * g, arrays, gradient), None

        return jax.lax.scan(step, arrays, jnp.arange(steps))[0]

    return lambda network: jax.tree.leaves(loop(network))


def torchcfm(model, data, batch, steps):
    """The loop of torchcfm's examples: independent coupling, Adam, one step at a time."""
    torch, library = pieces.torch(), pieces.peer("torchcfm.conditional_flow_matching")
    net, rows = nets.to_torch(model), nets.as_torch(data)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    matcher = library.ConditionalFlowMatcher(sigma=0.0)

    def call():
        for _ in range(steps):
            optimizer.zero_grad()
            x1 = rows[torch.randint(len(rows), (batch,))]
            t, x, velocity = matcher.sample_location_and_conditional_flow(torch.randn_like(x1), x1)
            torch.mean((net(t, x) - velocity) ** 2).backward()
            optimizer.step()

    return call


def kabsch(report, rounds):
    cost = jax.jit(pieces.kabsch_cost())
    keys = jax.random.split(jax.random.key(0))
    x, y = (jax.random.normal(key, (64, 32, 3)) for key in keys)
    by_svd = jax.jit(svd_cost)
    gap = np.max(np.abs(np.asarray(cost(x, y)) / np.asarray(by_svd(x, y)) - 1))
    report.number("Kabsch cost: relative difference from the SVD's", gap)
    variants = {
        name: lambda f=f: f(x, y).block_until_ready() for name, f in {"flowrax": cost, "batched SVD": by_svd}.items()
    }
    times = harness.alternate(variants, max(rounds, 7))
    report.timing(times, "Kabsch cost, 64 x 64 pairs of 32 points")
    milliseconds = 1e3 * np.asarray(times["flowrax"].wall)
    value = harness.Ratio(float(np.median(milliseconds)), float(milliseconds.min()), float(milliseconds.max()))
    report.bar("Kabsch cost, 64 x 64 pairs of 32 points, in ms", value, at_most=0.15)


def svd_cost(x, y):
    """The costs of all pairs by one batched singular value decomposition."""
    x, y = (z - jnp.mean(z, axis=1, keepdims=True) for z in (x, y))
    covariance = jnp.einsum("npi,mpj->nmij", x, y)
    left, values, right = jnp.linalg.svd(covariance)
    mirrored = jnp.sign(jnp.linalg.det(left) * jnp.linalg.det(right))
    overlap = values[..., 0] + values[..., 1] + mirrored * values[..., 2]
    squares = jnp.sum(x**2, axis=(1, 2))[:, None] + jnp.sum(y**2, axis=(1, 2))[None]
    return squares - 2 * overlap
