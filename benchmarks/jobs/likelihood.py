"""Log-densities in 64 dimensions: the cost of the divergence in evaluations of the network, and the errors."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import flowrax as frx

from .. import harness, nets, pieces, trace_error
from .adaptive import TOLERANCE

TITLE = "Log-density, a trained 64-d network"


def run(report, quick):
    model = nets.mixture()
    n, rounds = (32, 3) if quick else (512, 7)
    report.setting(samples=n, dimensions=64, rounds=rounds)
    evaluations(report, model, nets.noise(n, 64), rounds)
    memory(report)
    whole(report, model, (16, 2) if quick else (128, 5))
    with report.optional("Hadamard probes"):
        trace_error.compare(report, model, pieces.hadamard(), quick)


def evaluations(report, model, x, rounds):
    few, many = 40, 400
    hutchinson = frx.Hutchinson(1)
    probes = jax.vmap(hutchinson.probes)(jax.random.split(jax.random.key(2), x.shape[0]), x)
    loops = {
        "bare network": (nets.bare_loop(model, many), many, ()),
        "exact": (divergence_loop(model, frx.Exact(), few), few, (None,)),
        "Hutchinson, 1 probe": (divergence_loop(model, hutchinson, many), many, (probes,)),
    }
    variants = {name: lambda f=f, rest=rest: jax.block_until_ready(f(x, *rest)) for name, (f, _, rest) in loops.items()}
    times = harness.alternate(variants, rounds, at_least=0.2)
    report.timing(times, "field and divergence")
    for name, limit in (("exact", 42), ("Hutchinson, 1 probe", 2.05)):
        factor = many / loops[name][1]
        title = f"{name}: (field + divergence) / bare evaluation"
        report.compare(title, times, name, "bare network", clock="cpu", factor=factor, at_most=limit)


def divergence_loop(model, divergence, repeats):
    @eqx.filter_jit
    def loop(model, x, probes):
        field = nets.velocity(model)

        def step(carry, t):
            x, total = carry
            axes = (0, None if probes is None else 0)
            value, estimate = jax.vmap(lambda x, p: divergence(lambda x: field(t, x), x, p), axes)(x, probes)
            return (x + 1e-3 * value, total + estimate), None

        start = (x, jnp.zeros((x.shape[0], divergence.num_estimates), x.dtype))
        return jax.lax.scan(step, start, jnp.linspace(0, 1, repeats, dtype=x.dtype))[0]

    return lambda x, probes: loop(model, x, probes)


def memory(report):
    """Temporary memory of an exact divergence in 256 and 1,024 dimensions: it grows linearly, a Jacobian does not."""
    bytes_of = {}
    for size in (256, 1024):
        field = nets.velocity(nets.model_of(nets.network(size), size))
        x = jax.ShapeDtypeStruct((16, size), jnp.float32)

        def exact(x, field=field):
            return jax.vmap(lambda x: frx.Exact()(lambda x: field(0.5, x), x, None))(x)

        def jacobian(x, field=field):
            return jax.vmap(lambda x: jnp.trace(jax.jacfwd(lambda x: field(0.5, x))(x)))(x)

        for name, function in (("exact", exact), ("jacfwd", jacobian)):
            analysis = jax.jit(function).lower(x).compile().memory_analysis()
            bytes_of[name, size] = getattr(analysis, "temp_size_in_bytes", float("nan"))
            report.number(f"{name}, {size}-d, 16 rows: temporary memory", bytes_of[name, size] / 2**20, "MiB")
    report.bar(
        "exact: temporary memory in 1,024-d / in 256-d (linear: 4, a Jacobian: 16)",
        bytes_of["exact", 1024] / bytes_of["exact", 256],
        at_most=4.4,
    )


def whole(report, model, shape):
    """`log_prob` and its counterparts in other libraries: times, and errors against a solve in float64."""
    n, rounds = shape
    x = frx.sample(model, jax.random.key(4), n).x
    truth = tight_log_prob(model, x)
    variants = {"flowrax": lambda: frx.log_prob(model, x, rtol=TOLERANCE, atol=TOLERANCE).value.block_until_ready()}
    with report.optional("torch peers, log-density"):
        variants |= peers(model, x, report)
    times = harness.alternate(variants, rounds)
    report.timing(times, f"log_prob of {n} points")
    for name, function in variants.items():
        error = np.abs(np.asarray(function(), np.float64) - truth)
        report.number(f"{name}: error of the worst log-density", error.max(), "nats")
        report.number(f"{name}: median error of a log-density", np.median(error), "nats")
    for name in list(variants)[1:]:
        report.compare(f"{name} / flowrax, exact divergence", times, name, "flowrax", at_least=4)


def tight_log_prob(model, x):
    with nets.double():
        twin, x = nets.doubled(model), jnp.asarray(np.asarray(x), jnp.float64)
        return np.asarray(frx.log_prob(twin, x, rtol=1e-9, atol=1e-9).value)


def peers(model, x, report):
    torch = pieces.torch()
    torchdiffeq = pieces.peer("torchdiffeq")
    net, end = nets.to_torch(model), nets.as_torch(x)

    def log_normal(z):
        return -0.5 * (z**2).sum(1) - 32 * np.log(2 * np.pi)

    def by_rows(t, state):
        """The method of flowfusion's flow: one backward pass per dimension through the graph of the batch."""
        with torch.enable_grad():
            x = state[0].detach().requires_grad_(True)
            v = net(t, x)
            columns = [torch.autograd.grad(v[:, i].sum(), x, retain_graph=True)[0][:, i] for i in range(64)]
        return v.detach(), torch.stack(columns).sum(0)

    def by_jacobian(t, state):
        """The method of flowfusion's score model: the trace of a mapped reverse-mode Jacobian."""
        jacobian = torch.func.jacrev(lambda x: net(t, x[None])[0])
        total = torch.func.vmap(lambda x: torch.trace(jacobian(x)))(state[0])
        return net(t, state[0]), total

    def solve(field):
        def call():
            with torch.no_grad():
                times, start = torch.tensor([1.0, 0.0]), (end, torch.zeros(len(end)))
                z, change = torchdiffeq.odeint(field, start, times, rtol=TOLERANCE, atol=TOLERANCE, method="dopri5")
                return (log_normal(z[-1]) + change[-1]).numpy()

        return call

    found = {
        "flowfusion's way (autograd loop)": solve(by_rows),
        "flowfusion's way (vmap of jacrev)": solve(by_jacobian),
    }
    with report.optional("flow_matching, log-density"):
        wrapper = pieces.peer("flow_matching.utils").ModelWrapper

        class Wrapped(wrapper):
            def forward(self, x, t, **extras):
                return net(t, x)

        ode = pieces.peer("flow_matching.solver").ODESolver(velocity_model=Wrapped(net))
        options = {"step_size": None, "method": "dopri5", "atol": TOLERANCE, "rtol": TOLERANCE}
        found["flow_matching, exact"] = lambda: (
            ode.compute_likelihood(x_1=end, log_p0=log_normal, exact_divergence=True, **options)[1].detach().numpy()
        )
    return found
