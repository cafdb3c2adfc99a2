"""Standard errors of random estimates of a log-density at equal cost, with probes fixed along each trajectory."""

import jax
import jax.numpy as jnp
import numpy as np

import flowrax as frx

from . import nets

PROBES = (12, 16, 24)
TIMES = 21


def compare(report, model, distribution, quick):
    points, keys = (4, 20) if quick else (24, 100)
    x = trajectories(model, points)
    for count in PROBES:
        rademacher = spread(model, frx.Hutchinson(count), x, keys)
        other = spread(model, frx.Hutchinson(count, distribution=distribution), x, keys)
        report.number(f"Rademacher, {count} probes: standard error", rademacher, "nats")
        report.bar(f"Hadamard / Rademacher standard error, {count} probes", other / rademacher, at_most=0.85)


def trajectories(model, points):
    """States along trajectories of the model, `(points, times, d)`."""
    import diffrax as dfx

    saveat = dfx.SaveAt(ts=jnp.linspace(model.t_min, model.t_max, TIMES))
    return frx.sample(model, jax.random.key(11), points, saveat=saveat).trajectory


def spread(model, divergence, x, keys):
    """The standard deviation over keys of the integrated divergence, as a root mean square over the points."""
    field, times = nets.velocity(model), jnp.linspace(model.t_min, model.t_max, TIMES)

    @jax.jit
    def estimate(key):
        def point(key, path):
            probes = divergence.probes(key, path[0])
            values = jax.vmap(lambda t, x: jnp.mean(divergence(lambda x: field(t, x), x, probes)[1]))(times, path)
            return jnp.trapezoid(values, times)

        return jax.vmap(point)(jax.random.split(key, x.shape[0]), x)

    found = np.stack([np.asarray(estimate(key)) for key in jax.random.split(jax.random.key(12), keys)])
    return float(np.sqrt(np.mean(np.var(found, axis=0, ddof=1))))
