"""Compares fixed and adaptive steps of a reverse SDE, and three choices of its variable, at equal cost.

Prints the mean number of evaluations per sample with two weak errors at the end of the interval: the error of the
mean log-density in nats (blur within the components) and the total variation of the components' weights. Steps are
fixed or adaptive, in (x, t) or in log-SNR time for x, x / alpha and x / sigma. Adaptive `Heun` is the stochastic
improved Euler method of Jolicoeur-Martineau et al. (2021) on a Brownian tree. The first line gives the errors of an
equal number of exact draws; smaller errors cannot be resolved. Run as `python benchmarks/adaptive_sde.py`.
"""

import sys
from typing import Any, ClassVar

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np

import flowrax as frx
from flowrax.dynamics.base import AbstractDynamics
from flowrax.times import log_snr_grid

NUM = 10_000


def at_ends(function: Any, times: tuple[float, float]) -> tuple[float, float]:
    return float(function(jnp.asarray(times[0]))), float(function(jnp.asarray(times[1])))


class Whitened(AbstractDynamics):
    r"""The reverse SDE of `x / alpha` ("y") or `x / sigma` ("z") in log-SNR time.

    dy = (D - y) dl + exp(-l / 2) dW and dz = (exp(l / 2) D - z / 2) dl + dW, with D the denoised data.
    """

    start: float = eqx.field(static=True)
    ends: tuple[float, float] = eqx.field(static=True)
    scales: tuple[float, float] = eqx.field(static=True)
    by_noise: bool = eqx.field(static=True)
    calculus: ClassVar[type | None] = None
    keeps_density: ClassVar[bool] = False
    has_noise: ClassVar[bool] = True
    default_tolerance: ClassVar[float] = 1e-2

    def __init__(self, model: Any, times: tuple[float, float], by_noise: bool):
        self.ends = at_ends(model.schedule.log_snr, times)
        self.scales = at_ends(model.schedule.sigma if by_noise else model.schedule.alpha, times)
        self.start, self.by_noise = times[0], by_noise

    def interval(self, model):
        return self.ends

    def path_time(self, model, t):
        return model.schedule.time_at(jnp.asarray(t))

    def source(self, model):
        return model.source_at(self.start)

    def initial(self, x, key):
        return x / self.scales[0]

    def readout(self, state):
        return state * self.scales[1]

    def stepper(self, solver):
        return dfx.ShARK() if solver is None else solver

    def terms(self, model, condition, make_noise):
        def drift(log_snr, state, args):
            t = model.schedule.time_at(log_snr)
            scale = model.schedule.sigma(t) if self.by_noise else model.schedule.alpha(t)
            data = model.predict(t, scale * state, condition).data
            return jnp.exp(log_snr / 2) * data - state / 2 if self.by_noise else data - state

        def diffusion(log_snr, state, args):
            size = 1.0 if self.by_noise else jnp.exp(-log_snr / 2)
            return lx.DiagonalLinearOperator(jnp.broadcast_to(size, state.shape).astype(state.dtype))

        return dfx.MultiTerm(dfx.ODETerm(drift), dfx.ControlTerm(diffusion, make_noise(model.shape, 0))), None


def distributions():
    keys = jax.random.split(jax.random.key(0), 3)
    means, factors = 2 * jax.random.normal(keys[0], (8, 2)), jax.random.normal(keys[1], (8, 2, 2)) / 2
    weights = jax.random.uniform(keys[2], (8,), minval=0.5, maxval=1.5)
    broad = frx.oracle.GaussianMixture(weights, means, factors @ factors.mT + 0.05 * jnp.eye(2)[None])
    narrow = frx.oracle.GaussianMixture(weights, means, jnp.tile(0.003 * jnp.eye(2), (8, 1, 1)))
    return {"broad": broad, "narrow": narrow}


@eqx.filter_jit
def errors(distribution, x, exact):
    """The error of the mean log-density in nats, and the total variation of the expected component weights."""

    def statistics(x):
        def one(x):
            components = distribution.components
            density = jax.vmap(lambda c: c.posterior_terms(jnp.ones(()), jnp.zeros(()), x)[0])(components)
            return distribution.log_weights + density

        joint = jax.vmap(one)(x)
        return jnp.mean(jax.nn.logsumexp(joint, axis=1)), jnp.mean(jax.nn.softmax(joint, axis=1), axis=0)

    density, weights = statistics(x)
    exact_density, exact_weights = statistics(exact)
    return jnp.abs(density - exact_density), jnp.sum(jnp.abs(weights - exact_weights)) / 2


def run(name, model):
    x_form = frx.ReverseSDE(t_min=1e-3, t_max=0.999)
    times = x_form.interval(model)
    y_form, z_form = (Whitened(model, times, by_noise) for by_noise in (False, True))
    distribution = model.source_at(times[1])
    exact = distribution.sample(jax.random.key(1), (11 * NUM,))
    floor = errors(distribution, exact[:NUM], exact[NUM:])
    print(f"\n{name}: exact draws {float(floor[0]):.3f} {float(floor[1]):.3f}", flush=True)

    def report(dynamics, solver, **options):
        answer = frx.sample(model, jax.random.key(2), NUM, dynamics=dynamics, solver=solver, throw=False, **options)
        good = np.asarray(jnp.all(jnp.isfinite(answer.x), axis=1))
        failed = int(NUM - good.sum())
        density, weights = errors(distribution, jnp.where(good[:, None], answer.x, 0), exact[NUM:])
        cell = f"{float(jnp.mean(answer.stats.num_evaluations)):4.0f}: {float(density):6.3f} {float(weights):.3f}"
        return cell + (f" ({failed} failed)" if failed else "")

    def line(label, cells):
        print(f"  {label:34s}" + "   ".join(cells), flush=True)

    for solver, cost in ((dfx.Euler(), 1), (dfx.ShARK(), 2)):
        label = type(solver).__name__
        counts = [n // cost for n in (16, 40, 100)]
        line(f"{label}, x, t", [report(x_form, solver, grid=n) for n in counts])
        line(
            f"{label}, x, log-SNR",
            [report(x_form, solver, grid=log_snr_grid(model.schedule, n, *times)) for n in counts],
        )
        for form, dynamics in (("x / alpha", y_form), ("x / sigma", z_form)):
            line(f"{label}, {form}, log-SNR", [report(dynamics, solver, grid=n) for n in counts])
    for solver in (dfx.Heun(), dfx.ShARK()):
        for form, dynamics in (("x, t", x_form), ("x / alpha", y_form), ("x / sigma", z_form)):
            cells = []
            for tolerance in (0.3, 0.1, 0.03):
                cells.append(report(dynamics, solver, rtol=jnp.asarray(tolerance), atol=jnp.asarray(tolerance)))
            line(f"adaptive {type(solver).__name__}, {form}", cells)


def main():
    for name, schedule in (("VP", frx.VariancePreserving()), ("linear", frx.Linear())):
        for width, oracle in distributions().items():
            if len(sys.argv) < 2 or sys.argv[1] in f"{width}, {name}":
                run(f"{width}, {name}", oracle.model(schedule))


if __name__ == "__main__":
    main()
