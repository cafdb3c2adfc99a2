"""Operation counts that explain the measured ratios and do not depend on the load of the machine.

Prints, in units of an evaluation of the bare network, the operations in products (`dot_general`) of an exact divergence
and of a mapped reverse-mode Jacobian, and the operations that XLA counts in the compiled forward pass and gradient of
the reversible solvers, where the body of a loop counts once. Then prints how the numbers of adaptive steps are spread
over the samples, and the processor time of one assignment of `ExactOT`. Run as `python -m benchmarks.taken_apart`.
"""

import time

from . import environment

environment.settle()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

import flowrax as frx  # noqa: E402

from . import nets  # noqa: E402
from .jobs import adaptive, gradient  # noqa: E402


def products(function, x):
    """The floating-point operations in every `dot_general` of a function, times the lengths of the enclosing scans."""

    def walk(jaxpr, times):
        total = 0
        for equation in jaxpr.eqns:
            if equation.primitive.name == "dot_general":
                left, out = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
                contracted = equation.params["dimension_numbers"][0][0]
                total += 2 * times * int(np.prod(out)) * int(np.prod([left[i] for i in contracted]))
            inner = times * equation.params["length"] if equation.primitive.name == "scan" else times
            for value in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_jaxpr):
                if _is_jaxpr(value):
                    total += walk(getattr(value, "jaxpr", value), inner)
        return total

    return walk(jax.make_jaxpr(function)(x).jaxpr, 1)


def _is_jaxpr(value):
    return hasattr(value, "eqns") or hasattr(value, "jaxpr")


def divergences():
    field, x = nets.velocity(nets.mixture()), nets.noise(16, 64)

    def bare(x):
        return jax.vmap(lambda x: field(0.5, x))(x)

    def ours(x):
        return jax.vmap(lambda x: frx.Exact()(lambda y: field(0.5, y), x, None))(x)

    def jacobian(x):
        return bare(x), jax.vmap(lambda x: jnp.trace(jax.jacrev(lambda y: field(0.5, y))(x)))(x)

    for name, function in (("Exact", ours), ("field and mapped jacrev", jacobian)):
        print(f"{name}: {products(function, x) / products(bare, x):.1f} evaluations")


def reversible():
    model, x0 = nets.plane(), nets.noise(256, 2)
    one = products(jax.vmap(lambda x: nets.velocity(model)(0.5, x)), x0)
    for name, make in gradient.reversible_solvers().items():
        options = {"solver": make(), "adjoint": frx.ReversibleAdjoint(), "grid": 50}
        for kind in (gradient.forward, gradient.gradient):
            compiled = kind(model, **options).lower(x0).compile()
            memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
            assert memory is not None
            assert cost is not None
            mebibytes, count = memory.temp_size_in_bytes / 2**20, cost["flops"] / one
            print(f"{name}, {kind.__name__}: {count:.2f} evaluations, {mebibytes:.2f} MiB")


def steps():
    model, x0 = nets.mixture(), nets.noise(2000, 64)
    found = {"flowrax": adaptive.draw(model, x0, adaptive.TOLERANCE).stats.num_steps}
    for name, gains in (("default controller", None), ("PI controller", (0.4, 0.3))):
        found[f"vmap(diffeqsolve), {name}"] = adaptive.mapped(model, x0, adaptive.TOLERANCE, gains)()[1]
    for name, taken in found.items():
        taken = np.asarray(taken)
        print(f"{name}: {taken.mean():.2f} steps, at most {taken.max()}, ratio {taken.max() / taken.mean():.2f}")


def assignment():
    coupling, x1 = frx.ExactOT(block_size=64), nets.ring().sample(jax.random.key(3), (4096,))
    costs = tuple(np.asarray(c) for c in coupling.costs(nets.noise(4096, 2), x1))
    coupling.order(costs)
    seconds = []
    for _ in range(9):
        before = time.thread_time()
        coupling.order(costs)
        seconds.append(time.thread_time() - before)
    print(f"assignment of 4,096 points in the plane in blocks of 64: {1e3 * np.median(seconds):.1f} ms on one core")


if __name__ == "__main__":
    divergences()
    reversible()
    steps()
    assignment()
