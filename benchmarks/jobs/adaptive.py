"""Adaptive sampling of a trained network in 64 dimensions at rtol = atol = 1e-5."""

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import flowrax as frx

from .. import harness, nets, pieces

TITLE = "Adaptive sampling, a trained 64-d network"
TOLERANCE = 1e-5
STAGES = 6
BARE = 60


def run(report, quick):
    n, rounds = (1000, 3) if quick else (10_000, 5)
    model, x0 = nets.mixture(), nets.noise(n, 64)
    truth = nets.truth(model, x0, "mixture")
    report.setting(samples=n, dimensions=64, rtol=TOLERANCE, atol=TOLERANCE, solver="Dopri5", rounds=rounds)
    bare = nets.bare_loop(model, BARE)
    variants = {
        f"bare network, {BARE} evaluations": lambda: jax.block_until_ready(bare(x0)),
        "flowrax": lambda: draw(model, x0, TOLERANCE).x.block_until_ready(),
        "vmap(diffeqsolve)": mapped(model, x0, TOLERANCE, None),
        "vmap(diffeqsolve), PI controller": mapped(model, x0, TOLERANCE, (0.4, 0.3)),
    }
    with report.optional("torch peers"):
        variants |= peers(model, x0, report)
    samples = draw(model, x0, TOLERANCE)
    with compilations() as compiled:
        draw(model, x0, TOLERANCE).x.block_until_ready()
    report.bar("compilations by the second call", len(compiled), at_most=0)
    times = harness.alternate(variants, rounds)
    report.timing(times)
    evaluations = float(np.mean(samples.stats.num_steps)) * STAGES
    report.number("flowrax: mean evaluations of a sample", evaluations)
    report.number("flowrax: most evaluations of a sample", float(np.max(samples.stats.num_steps)) * STAGES)
    floor = f"bare network, {BARE} evaluations"
    name = "wall / (mean steps x stages x bare network)"
    report.compare(name, times, "flowrax", floor, factor=BARE / evaluations, at_most=1.10)
    for other in ("vmap(diffeqsolve)", "vmap(diffeqsolve), PI controller"):
        report.compare(f"{other} / flowrax", times, other, "flowrax", at_least=1.4)
    ours = harness.errors(samples.x, truth)["rms"]
    report.number("flowrax: rms error", ours)
    for other in variants:
        if other not in ("flowrax", floor):
            report.number(f"{other}: rms error", harness.errors(ends(variants[other]()), truth)["rms"])
    for other in [name for name in ("torchdiffeq", "flow_matching") if name in times]:
        report.compare(f"flowrax / {other}", times, "flowrax", other, at_most=0.55)
        theirs = harness.errors(ends(variants[other]()), truth)["rms"]
        report.bar(f"rms error of {other} / flowrax's", theirs / ours, at_least=10)
    precision(report, model, x0[: n // 5], truth[: n // 5], quick)
    even(report, x0, rounds)


def draw(model, x0, tolerance):
    return frx.sample(model, jax.random.key(0), x0.shape[0], x0=x0, rtol=tolerance, atol=tolerance)


def ends(answer):
    """The final states from the result of a variant, which may be a pair of states and numbers of steps."""
    return answer[0] if isinstance(answer, tuple) else answer


def mapped(model, x0, tolerance, coefficients):
    """Plain diffrax: one adaptive solve, mapped over the batch and compiled once."""
    gains = {} if coefficients is None else {"pcoeff": coefficients[0], "icoeff": coefficients[1]}
    controller = dfx.PIDController(rtol=tolerance, atol=tolerance, **gains)

    @eqx.filter_jit
    def solve(model, x0):
        term = dfx.ODETerm(lambda t, x, model: model.predict(t, x).velocity)

        def one(x0):
            return dfx.diffeqsolve(term, dfx.Dopri5(), 0.0, 1.0, None, x0, model, stepsize_controller=controller)

        solution = jax.vmap(one)(x0)
        assert solution.ys is not None
        return solution.ys[:, 0], solution.stats["num_steps"]

    return lambda: jax.block_until_ready(solve(model, x0))


def peers(model, x0, report):
    """torchdiffeq called directly, as torchcfm, SiT and flowfusion do, and the solver of flow_matching."""
    torch, torchdiffeq = pieces.torch(), pieces.peer("torchdiffeq")
    net, start = nets.to_torch(model), nets.as_torch(x0)
    gap = np.max(
        np.abs(network_values(net, start[:10]) - np.asarray(jax.vmap(nets.velocity(model), (None, 0))(0.3, x0[:10])))
    )
    assert gap < 1e-4, f"the torch copy of the network differs by {gap}"
    found = {"torchdiffeq": lambda: torchdiffeq_solve(torch, torchdiffeq, net, start, TOLERANCE)}
    with report.optional("flow_matching"):
        solver = pieces.peer("flow_matching.solver")
        wrapper = pieces.peer("flow_matching.utils").ModelWrapper

        class Wrapped(wrapper):
            def forward(self, x, t, **extras):
                return net(t, x)

        ode = solver.ODESolver(velocity_model=Wrapped(net))
        found["flow_matching"] = lambda: ode.sample(
            x_init=start, method="dopri5", step_size=None, atol=TOLERANCE, rtol=TOLERANCE
        ).numpy()
    return found


def network_values(net, x):
    torch = pieces.torch()
    with torch.no_grad():
        return net(torch.tensor(0.3), x).numpy()


def torchdiffeq_solve(torch, torchdiffeq, net, start, tolerance):
    with torch.no_grad():
        times = torch.tensor([0.0, 1.0])
        return torchdiffeq.odeint(net, start, times, rtol=tolerance, atol=tolerance, method="dopri5")[-1].numpy()


def even(report, x0, rounds):
    """The same comparison for samples of equal difficulty, for which hardly any lane of a plain vmap is idle."""
    model = nets.digits()
    variants = {
        "flowrax": lambda: draw(model, x0, TOLERANCE).x.block_until_ready(),
        "vmap(diffeqsolve), PI controller": mapped(model, x0, TOLERANCE, (0.4, 0.3)),
    }
    times = harness.alternate(variants, rounds)
    report.timing(times, "equally hard samples (digits)")
    median = harness.ratio(times, "vmap(diffeqsolve), PI controller", "flowrax").median
    report.number("equally hard samples (digits): vmap(diffeqsolve), PI controller / flowrax", median)


class compilations:
    """Collects the durations of the compilations within a `with` block."""

    def __enter__(self):
        self.found, self.open = [], True
        jax.monitoring.register_event_duration_secs_listener(self._heard)
        return self.found

    def _heard(self, event, duration_secs, **kwargs):
        if self.open and event.endswith("backend_compile_duration"):
            self.found.append(duration_secs)

    def __exit__(self, *error):
        self.open = False


def precision(report, model, x0, truth, quick):
    """Numbers of evaluations and errors at several tolerances."""
    for tolerance in (1e-3, 1e-5) if quick else (1e-2, 1e-3, 1e-4, 1e-5, 1e-6):
        answer = draw(model, x0, tolerance)
        cost = float(jnp.mean(answer.stats.num_evaluations))
        report.point("flowrax", evaluations=cost, tolerance=tolerance, **harness.errors(answer.x, truth))
        x, steps = mapped(model, x0, tolerance, None)()
        error, cost = harness.errors(x, truth), STAGES * float(np.max(steps))
        report.point("vmap(diffeqsolve)", evaluations=cost, tolerance=tolerance, **error)
        with report.optional("torchdiffeq's curve"):
            torch, torchdiffeq = pieces.torch(), pieces.peer("torchdiffeq")
            net = nets.to_torch(model)
            error = harness.errors(torchdiffeq_solve(torch, torchdiffeq, net, nets.as_torch(x0), tolerance), truth)
            report.point("torchdiffeq", evaluations=net.calls, tolerance=tolerance, **error)
