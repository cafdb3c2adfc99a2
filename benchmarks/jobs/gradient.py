"""Gradients through sampling in the plane: time relative to the forward solve, memory by number of steps, rounding."""

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np

import flowrax as frx

from .. import harness, nets, pieces
from .adaptive import TOLERANCE

TITLE = "Gradient through sampling, 2-d, 256 samples"
MAX_STEPS = 64


def run(report, quick):
    n, steps, rounds = (32, 50, 3) if quick else (256, 500, 5)
    model, x0 = nets.plane(), nets.noise(n, 2)
    report.setting(samples=n, dimensions=2, steps=steps, rounds=rounds, rtol=TOLERANCE)
    fixed(report, model, x0, steps, rounds)
    rounding(report, model, x0, sorted({50, steps}))
    adaptive(report, model, x0, rounds)


def end(model, x0, **options):
    return frx.sample(model, jax.random.key(0), x0.shape[0], x0=x0, throw=False, **options).x


def forward(model, **options):
    return jax.jit(lambda x0: end(model, x0, **options))


def gradient(model, **options):
    """The gradient of half the squared norm of the end points with respect to the starting points."""
    return jax.jit(jax.grad(lambda x0: jnp.sum(end(model, x0, **options) ** 2) / 2))


def fixed(report, model, x0, steps, rounds):
    """The forward solve and the gradient of each scheme on a grid."""
    functions, memory = {}, {}
    checkpointed = {"solver": dfx.Heun(), "adjoint": dfx.RecursiveCheckpointAdjoint()}
    functions["Heun, forward"] = forward(model, solver=dfx.Heun(), grid=steps)
    functions["Heun, RecursiveCheckpointAdjoint"] = gradient(model, grid=steps, **checkpointed)
    memory["Heun, RecursiveCheckpointAdjoint"] = checkpointed
    for name, make in reversible_solvers().items():
        with report.optional(name):
            options = {"solver": make(), "adjoint": pieces.reversible_adjoint()}
            functions[f"{name}, forward"] = forward(model, grid=steps, **options)
            functions[f"{name}, gradient"] = gradient(model, grid=steps, **options)
            memory[name] = options
    times = harness.alternate({k: lambda f=f: f(x0).block_until_ready() for k, f in functions.items()}, rounds)
    report.timing(times, f"{steps} steps")
    slow = "Heun, RecursiveCheckpointAdjoint"
    report.number(
        "RecursiveCheckpointAdjoint: gradient / its own forward", harness.ratio(times, slow, "Heun, forward").median
    )
    for name in list(memory)[1:]:
        ours = f"{name}, gradient"
        title = f"{name}, {steps} steps: gradient / its own forward"
        report.compare(title, times, ours, f"{name}, forward", clock="cpu", at_most=2.5)
        report.compare(f"RecursiveCheckpointAdjoint / {name}, gradient", times, slow, ours, clock="cpu", at_least=1.0)
    for name, options in memory.items():
        used = {k: temporary(gradient(model, grid=k, **options), x0) for k in (50, 5000)}
        for k, value in used.items():
            report.number(f"{name}, {k} steps: temporary memory", value / 2**20, "MiB")
        if name != slow:
            report.bar(f"{name}: memory at 5,000 steps / at 50", used[5000] / used[50], at_most=1.1)


def reversible_solvers():
    return {
        "Reversible(Heun)": lambda: pieces.reversible(dfx.Heun()),
        "ReversibleHeun": lambda: dfx.ReversibleHeun(),
    }


def temporary(function, x0):
    return function.lower(x0).compile().memory_analysis().temp_size_in_bytes


def rounding(report, model, x0, counts):
    """Errors of float32 gradients and of float32 autodiff against the same scheme in float64."""
    start = np.asarray(x0)
    for name, make in reversible_solvers().items():
        for steps in counts:
            with report.optional(f"rounding of {name}"):
                adjoint, solver = pieces.reversible_adjoint(), make()
                plain = dfx.RecursiveCheckpointAdjoint()
                ours = gradient(model, solver=solver, adjoint=adjoint, grid=steps)(x0)
                autodiff = gradient(model, solver=solver, adjoint=plain, grid=steps)(x0)
                with nets.double():
                    exact = gradient(nets.doubled(model), solver=solver, adjoint=plain, grid=steps)(
                        jnp.asarray(start, jnp.float64)
                    )
                    exact = np.asarray(exact)
                error, other = (relative(g, exact) for g in (ours, autodiff))
                report.number(f"{name}, {steps} steps: error of the float32 gradient", error)
                report.bar(f"{name}, {steps} steps: float32 error / autodiff's", error / other, at_most=1.5)


def relative(gradient, exact):
    return float(np.linalg.norm(np.asarray(gradient, np.float64) - exact) / np.linalg.norm(exact))


def adaptive(report, model, x0, rounds):
    options = {"rtol": TOLERANCE, "atol": TOLERANCE, "max_steps": MAX_STEPS}
    functions = {
        "Dopri5, forward": forward(model, **options),
        "Dopri5, default gradient": gradient(model, **options),
        "Dopri5, RecursiveCheckpointAdjoint": gradient(model, adjoint=dfx.RecursiveCheckpointAdjoint(), **options),
    }
    times = harness.alternate({k: lambda f=f: f(x0).block_until_ready() for k, f in functions.items()}, rounds)
    report.timing(times, "adaptive")
    still, ours, slow = functions
    report.compare("adaptive Dopri5: gradient / forward", times, ours, still, clock="cpu", at_most=3.6)
    report.compare("RecursiveCheckpointAdjoint / adaptive gradient", times, slow, ours, clock="cpu", at_least=1.0)
    # The steps come from the program whose gradient is tested: another program would round to other steps.
    found, accepted = with_steps(model, x0, options)
    autodiff = replayed(model, accepted, x0)
    start = np.asarray(x0)
    with nets.double():
        exact = np.asarray(replayed(nets.doubled(model), accepted, jnp.asarray(start, jnp.float64)))
    error, limit = relative(found, exact), relative(autodiff, exact)
    report.number("default gradient: error against the discrete gradient in float64", error)
    report.number("autodiff of the accepted steps in float32: error", limit)
    report.bar("adaptive: float32 error of the discrete gradient / autodiff's", error / limit, at_most=1.5)


def with_steps(model, x0, options):
    """The default gradient, and the end times of the accepted steps of its solve."""

    @jax.jit
    def both(x0):
        def loss(x0):
            saveat = dfx.SaveAt(steps=True)
            answer = frx.sample(model, jax.random.key(0), x0.shape[0], x0=x0, saveat=saveat, throw=False, **options)
            return jnp.sum(answer.x**2) / 2, answer.times

        return jax.grad(loss, has_aux=True)(x0)

    found, times = both(x0)
    return found, np.asarray(times)


def replayed(model, accepted, x0):
    """The gradient by autodiff of the steps that the adaptive solve accepted."""
    field, tableau = nets.velocity(model), dfx.Dopri5().tableau
    lower, last, nodes = tableau.a_lower, tableau.b_sol, (0.0, *tableau.c)

    def step(x, ends):
        t, h = ends[0], ends[1] - ends[0]
        slopes = []
        for row, node in zip(((), *lower), nodes, strict=True):
            inner = x + h * sum((float(a) * k for a, k in zip(row, slopes, strict=True)), jnp.zeros_like(x))
            slopes.append(field(t + float(node) * h, inner))
        return x + h * sum(float(b) * k for b, k in zip(last, slopes, strict=True)), None

    def one(x, times):
        return jax.lax.scan(step, x, jnp.stack([times[:-1], times[1:]], axis=1))[0]

    # Steps after the last accepted one have zero length and no effect.
    filled = np.where(np.isfinite(accepted), accepted, model.t_max)
    times = jnp.asarray(np.concatenate([np.full((len(filled), 1), model.t_min), filled], axis=1), x0.dtype)
    return jax.jit(jax.grad(lambda x: jnp.sum(jax.vmap(one)(x, times) ** 2) / 2))(x0)
