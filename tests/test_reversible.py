"""Gradients of a solve that is run back: those of autodiff, in memory that does not grow; what it refuses, and says."""

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowrax as frx
from flowrax.stepper import GridBrownianPath
from flowrax.stepper.reversal import RungeKuttaReversal, Times, reversal_of
from laws import mixture

# What the hook of an adjoint and its loop state look like is diffrax's own affair: look again before adding a version.
CHECKED = ("0.7.2",)

GRID = np.linspace(0, 1, 13) ** 1.5
TIMES = np.array([0.0, 0.13, GRID[5], 0.51, 1.0])


class Field(eqx.Module):
    """A nonlinear field; the weights are what the gradients of `terms` are about."""

    weight: jax.Array

    def __call__(self, t, y, args):
        return jnp.tanh(self.weight @ y) * args["scale"] + jnp.sin(3 * t).astype(y.dtype) / 10


class Still(eqx.Module):
    """A field without time, as both halves of a separable Hamiltonian have it."""

    weight: jax.Array

    def __call__(self, t, y, args):
        return jnp.tanh(self.weight @ y) * args["scale"]


class Spread(eqx.Module):
    """Additive noise whose size is differentiated too."""

    size: jax.Array

    def __call__(self, t, y, args):
        return self.size * jnp.eye(len(y), dtype=y.dtype) * (1 + t).astype(y.dtype)


def parameters(dtype="float64"):
    keys = jax.random.split(jax.random.key(0), 2)
    y0 = jax.random.normal(keys[0], (3,), dtype)
    return y0, jax.random.normal(keys[1], (3, 3), dtype), {"scale": jnp.asarray(1.3, dtype)}


def ode(weight, solver):
    if isinstance(solver, dfx.SemiImplicitEuler):
        return dfx.ODETerm(Still(weight)), dfx.ODETerm(Field(weight.T))
    return dfx.ODETerm(Field(weight))


def solve(params, solver, adjoint, controller, dt0=None, saveat=None, terms=None):
    y0, weight, args = params
    y0 = (y0, 2 * y0) if isinstance(solver, dfx.SemiImplicitEuler) else y0
    return dfx.diffeqsolve(
        ode(weight, solver) if terms is None else terms,
        solver,
        0.0,
        1.0,
        dt0,
        y0,
        args,
        saveat=dfx.SaveAt(t1=True) if saveat is None else saveat,
        stepsize_controller=controller,
        adjoint=adjoint,
        max_steps=64,
    )


def contracted(solution):
    """A number in which each entry of what was saved has a part of its own."""
    leaves = jax.tree.leaves(solution.ys)
    return sum(
        jnp.sum(jnp.cos((1 + jnp.arange(leaf.size, dtype=leaf.dtype)).reshape(leaf.shape) * leaf)) for leaf in leaves
    )


@eqx.filter_jit
def value_and_gradient(params, *rest):
    def loss(params):
        solution = solve(params, *rest)
        return contracted(solution), solution

    return eqx.filter_value_and_grad(loss, has_aux=True)(params)


def assert_close(a, b, tolerance):
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert np.allclose(one, other, rtol=tolerance, atol=tolerance)


SOLVERS = {
    "ReversibleHeun": dfx.ReversibleHeun(),
    "LeapfrogMidpoint": dfx.LeapfrogMidpoint(),
    "SemiImplicitEuler": dfx.SemiImplicitEuler(),
    "Midpoint": frx.Reversible(dfx.Midpoint()),
    "Tsit5": frx.Reversible(dfx.Tsit5(), coupling=0.9),
}


def steps_of(name):
    """A controller and a first step, in the precision of the moment."""
    if name == "grid":
        return dfx.StepTo(GRID), None
    return (dfx.ConstantStepSize(), 0.07) if name == "constant" else (dfx.PIDController(rtol=1e-4, atol=1e-4), 0.5)


CASES = [(solver, "grid") for solver in SOLVERS]
CASES += [("ReversibleHeun", "constant"), ("ReversibleHeun", "adaptive"), ("Tsit5", "adaptive")]


def test_versions_of_diffrax():
    """The loop that the adjoint stands in for has been compared with ours on these versions."""
    assert dfx.__version__ in CHECKED


@pytest.mark.parametrize(("name", "steps"), CASES)
def test_gradients_are_those_of_autodiff(name, steps, x64):
    """With respect to y0, terms and args, through the states at t0, t1 and at times on and between the steps."""
    subs = dfx.SubSaveAt(t1=True), dfx.SubSaveAt(t0=True, ts=TIMES, fn=lambda t, y, args: (y, args["scale"] * t))
    arguments = (*steps_of(steps), dfx.SaveAt(subs=subs))
    (value, solution), gradient = value_and_gradient(parameters(), SOLVERS[name], frx.ReversibleAdjoint(), *arguments)
    (truth, expected), exact = value_and_gradient(parameters(), SOLVERS[name], dfx.DirectAdjoint(), *arguments)
    assert_close(value, truth, 1e-12)
    assert_close((solution.ts, solution.ys, solution.stats), (expected.ts, expected.ys, expected.stats), 1e-12)
    assert_close(gradient, exact, 1e-10)


@pytest.mark.parametrize("steps", ["grid", "adaptive"])
def test_gradients_under_vmap(steps, x64):
    """Of a batch in which the samples take different numbers of steps, with shared parameters."""
    y0, weight, args = parameters()
    batch = jnp.stack([y0, 3 * y0, -y0 / 5])
    controller, dt0 = steps_of(steps)

    @eqx.filter_jit
    def gradient(adjoint):
        def loss(params):
            batch, weight, args = params

            def one(y0):
                return solve((y0, weight, args), dfx.ReversibleHeun(), adjoint, controller, dt0, dfx.SaveAt(ts=TIMES))

            solutions = jax.vmap(one)(batch)
            return contracted(solutions), solutions.stats["num_steps"]

        return eqx.filter_grad(loss, has_aux=True)((batch, weight, args))

    ours, steps_taken = gradient(frx.ReversibleAdjoint())
    theirs, same = gradient(dfx.DirectAdjoint())
    assert_close(ours, theirs, 1e-10)
    assert np.array_equal(steps_taken, same)
    assert steps == "grid" or len(set(np.asarray(same).tolist())) > 1


@pytest.mark.accuracy
@pytest.mark.parametrize(("name", "path"), [("ReversibleHeun", "grid"), ("ReversibleHeun", "tree"), ("Heun", "grid")])
def test_gradients_of_an_sde(name, path, x64):
    solver = {"ReversibleHeun": dfx.ReversibleHeun(), "Heun": frx.Reversible(dfx.Heun())}[name]
    grid = jnp.asarray(GRID)
    key = jax.random.key(1)
    if path == "grid":
        noise = GridBrownianPath(grid, (3,), key, dtype=jnp.float64)
    else:
        noise = dfx.VirtualBrownianTree(0.0, 1.0, 1e-4, jax.ShapeDtypeStruct((3,), jnp.float64), key)

    @eqx.filter_jit
    def gradient(adjoint):
        def loss(params):
            (y0, weight, args), size = params
            terms = dfx.MultiTerm(dfx.ODETerm(Field(weight)), dfx.ControlTerm(Spread(size), noise))
            return contracted(
                solve((y0, weight, args), solver, adjoint, dfx.StepTo(grid), None, dfx.SaveAt(t1=True, ts=TIMES), terms)
            )

        return eqx.filter_value_and_grad(loss)((parameters(), jnp.asarray(0.4)))

    assert_close(gradient(frx.ReversibleAdjoint()), gradient(dfx.DirectAdjoint()), 1e-10)


@pytest.mark.accuracy
def test_gradients_of_an_adaptive_sde(x64):
    noise = dfx.VirtualBrownianTree(0.0, 1.0, 1e-4, jax.ShapeDtypeStruct((3,), jnp.float64), jax.random.key(1))

    @eqx.filter_jit
    def gradient(adjoint):
        def loss(params):
            terms = dfx.MultiTerm(dfx.ODETerm(Field(params[1])), dfx.ControlTerm(Spread(jnp.asarray(0.4)), noise))
            controller = dfx.PIDController(rtol=1e-1, atol=1e-1, dtmin=2e-3)
            solution = solve(params, dfx.ReversibleHeun(), adjoint, controller, 0.1, None, terms)
            return contracted(solution), solution.stats["num_rejected_steps"]

        return eqx.filter_grad(loss, has_aux=True)(parameters())

    (ours, rejected), (theirs, _) = gradient(frx.ReversibleAdjoint()), gradient(dfx.DirectAdjoint())
    assert rejected > 0
    assert_close(ours, theirs, 1e-10)


def test_backward_in_time(x64):
    """From 1 to 0, as a log-density is solved."""

    @eqx.filter_jit
    def gradient(adjoint):
        def loss(params):
            y0, weight, args = params
            terms, controller = ode(weight, None), dfx.StepTo(GRID[::-1])
            solver = dfx.ReversibleHeun()
            options = {"saveat": dfx.SaveAt(t1=True, ts=TIMES[::-1]), "stepsize_controller": controller}
            return contracted(dfx.diffeqsolve(terms, solver, 1.0, 0.0, None, y0, args, adjoint=adjoint, **options))

        return eqx.filter_grad(loss)(parameters())

    assert_close(gradient(frx.ReversibleAdjoint()), gradient(dfx.DirectAdjoint()), 1e-10)


def test_single_precision():
    """The float32 gradient is that of float64 to 50 units of rounding, over 50 steps that stretch and turn."""

    def gradient(params, adjoint):
        return value_and_gradient(params, dfx.ReversibleHeun(), adjoint, dfx.StepTo(np.linspace(0, 1, 51)))[1]

    ours = gradient(parameters("float32"), frx.ReversibleAdjoint())
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), "float64"), parameters("float32"))
        exact = gradient(wide, frx.ReversibleAdjoint())
    assert_close(ours, jax.tree.map(np.asarray, exact), 50 * np.finfo(np.float32).eps)


def memory(num_steps, adjoint):
    """Temporary memory of the gradient of a solve, in bytes."""

    def loss(y0, weight):
        steps = dfx.StepTo(jnp.linspace(0.0, 1.0, num_steps + 1))
        options = {"stepsize_controller": steps, "adjoint": adjoint, "max_steps": num_steps}
        terms = dfx.ODETerm(lambda t, y, weight: jnp.tanh(y @ weight))
        return jnp.sum(dfx.diffeqsolve(terms, dfx.ReversibleHeun(), 0.0, 1.0, None, y0, weight, **options).ys ** 2)

    compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(jnp.ones((64, 32)), jnp.eye(32)).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_memory_does_not_grow_with_the_steps():
    few, many = (memory(n, frx.ReversibleAdjoint()) for n in (50, 5000))
    # The times themselves are an input made inside: 4 bytes for each of the 5,000.
    assert many - 4 * 2 * 5000 <= 1.1 * few
    assert few < memory(50, dfx.RecursiveCheckpointAdjoint())


def stiff(adjoint):
    """The gradient of a solve whose flow contracts by far more than float32 has digits."""

    def loss(y0):
        term = dfx.ODETerm(lambda t, y, args: -40 * y)
        steps = dfx.StepTo(jnp.linspace(0.0, 1.0, 201))
        solver = frx.Reversible(dfx.Bosh3())
        return jnp.sum(dfx.diffeqsolve(term, solver, 0.0, 1.0, None, y0, stepsize_controller=steps, adjoint=adjoint).ys)

    return jax.jit(jax.value_and_grad(loss))(jnp.ones(3))


def test_a_solve_that_cannot_be_run_back_is_reported():
    with pytest.raises(Exception, match=r"ReversibleAdjoint: the solve run back did not return to its initial state"):
        jax.block_until_ready(stiff(frx.ReversibleAdjoint()))
    value, gradient = stiff(frx.ReversibleAdjoint(throw=False))
    assert np.isfinite(value)
    assert np.all(np.isnan(gradient))
    # Asked to bear the error, it gives it.
    assert np.all(np.isfinite(stiff(frx.ReversibleAdjoint(tolerance=1e30))[1]))


ORDERS = {
    "Heun": (dfx.Heun(), 2, (64, 128, 256, 512)),
    "Midpoint": (dfx.Midpoint(), 2, (64, 128, 256, 512)),
    "Bosh3": (dfx.Bosh3(), 3, (64, 128, 256)),
    "Dopri5": (dfx.Dopri5(), 5, (16, 32, 64, 128)),
    "Tsit5": (dfx.Tsit5(), 5, (16, 32, 64, 128)),
}


@pytest.mark.accuracy
@pytest.mark.parametrize("name", ORDERS)
def test_order(name, x64):
    """A Runge-Kutta method made reversible keeps its order, on y' = y (1 - y) 3 cos 3t with its closed form."""
    solver, order, counts = ORDERS[name]
    term = dfx.ODETerm(lambda t, y, args: 3 * jnp.cos(3 * t) * y * (1 - y))
    y0 = jnp.linspace(0.1, 0.9, 5)
    want = 1 / (1 + (1 / y0 - 1) * jnp.exp(-jnp.sin(3.0)))

    @jax.jit
    def end(step):
        return dfx.diffeqsolve(term, frx.Reversible(solver), 0.0, 1.0, step, y0, adjoint=frx.ReversibleAdjoint()).ys[0]

    errors = [float(jnp.max(jnp.abs(end(1 / n) - want))) for n in counts]
    assert abs(-np.polyfit(np.log(counts), np.log(errors), 1)[0] - order) <= 0.15


@pytest.mark.parametrize("name", ORDERS)
def test_a_step_runs_back_to_rounding(name, x64):
    """Thirty steps there and back, by the solver's own step and its reversal."""
    y0, weight, args = parameters()
    solver, terms = frx.Reversible(ORDERS[name][0]), ode(weight, None)
    reversal = reversal_of(solver)
    assert isinstance(reversal, RungeKuttaReversal)
    grid = jnp.linspace(0.0, 1.0, 31)

    @jax.jit
    def there_and_back(y0):
        def there(carry, interval):
            y, _, _, state, _ = solver.step(terms, *interval, carry[0], args, carry[1], False)
            return (y, state), None

        def back(point, interval):
            def pull(increment, x):
                times = Times(interval[0], *interval, interval[1])
                return jax.vjp(lambda x, nothing: increment(times, x, terms, args), x, None)

            return reversal.back(pull, point, *others)[0], None

        state = solver.init(terms, grid[0], grid[1], y0, args)
        (y, state), _ = jax.lax.scan(there, (y0, state), (grid[:-1], grid[1:]))
        point, others = reversal.start(y, state)
        others = (y, others)
        return y, jax.lax.scan(back, point, (grid[:-1], grid[1:]), reverse=True)[0]

    y, (back, copy) = there_and_back(y0)
    assert np.max(np.abs(y - y0)) > 0.1
    assert_close((back, copy), (y0, y0), 1e-13)


def test_error_estimate_is_that_of_the_method(x64):
    """At the first step both copies are the state, so the embedded error is the method's own."""
    y0, weight, args = parameters()
    terms = ode(weight, None)
    for solver in (dfx.Tsit5(), dfx.Bosh3(), dfx.Heun()):
        state = solver.init(terms, 0.0, 0.1, y0, args)
        y1, error, _, _, _ = solver.step(terms, 0.0, 0.1, y0, args, state, False)
        ours = frx.Reversible(solver).step(terms, 0.0, 0.1, y0, args, y0, False)
        assert_close((ours[0], ours[1]), (y1, error), 1e-14)


def test_through_sample(x64):
    """The gradient of samples with respect to where they start and to the model, by both adjoints."""
    solver, model = dfx.ReversibleHeun(), mixture(3, 2, "float64").model(frx.Linear())
    x0 = jax.random.normal(jax.random.key(0), (4, 2))

    @eqx.filter_jit
    def gradient(adjoint):
        def loss(start):
            x0, model = start
            out = frx.sample(model, jax.random.key(1), 4, x0=x0, solver=solver, grid=20, adjoint=adjoint)
            return jnp.sum(out.x**2)

        return eqx.filter_grad(loss)((x0, model))

    assert_close(gradient(frx.ReversibleAdjoint()), gradient(dfx.DirectAdjoint()), 1e-9)


REFUSED = {
    "solver": (
        {"solver": dfx.Tsit5()},
        r"^ReversibleAdjoint cannot run Tsit5 back; use diffrax's ReversibleHeun, SemiImplicitEuler or "
        r"LeapfrogMidpoint, or make an explicit Runge-Kutta method reversible: "
        r"flowrax\.Reversible\(diffrax\.Tsit5\(\)\)\.",
    ),
    "steps": (
        {"saveat": dfx.SaveAt(steps=True)},
        r"^ReversibleAdjoint saves at t0, t1 and ts only; pass SaveAt\(ts=\.\.\.\) in place of the rest\.",
    ),
    "dense": ({"saveat": dfx.SaveAt(dense=True)}, r"^ReversibleAdjoint saves at t0, t1 and ts only"),
    "event": (
        {"event": dfx.Event(lambda t, y, args, **kwargs: y[0] > 9)},
        r"^ReversibleAdjoint cannot end a solve at an event; use diffrax\.RecursiveCheckpointAdjoint\(\)\.",
    ),
    "jumps": (
        {"stepsize_controller": dfx.ClipStepSizeController(steps_of("adaptive")[0], jump_ts=[0.5])},
        r"^ReversibleAdjoint cannot cross jumps of the vector field; solve each piece on its own\.",
    ),
    "max_steps": (
        {"max_steps": None},
        r"^ReversibleAdjoint keeps the step times: pass max_steps, or steps by diffrax\.StepTo\(ts=\.\.\.\)\.",
    ),
    "noise": (
        {
            "terms": dfx.ControlTerm(
                Spread(jnp.ones(())), dfx.UnsafeBrownianPath(jax.ShapeDtypeStruct((3,), jnp.float32), jax.random.key(0))
            ),
            "stepsize_controller": dfx.ConstantStepSize(),
        },
        r"^ReversibleAdjoint needs the same noise again on the way back, which UnsafeBrownianPath does not give; ",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name):
    change, message = REFUSED[name]
    given = {
        "terms": dfx.ODETerm(Field(jnp.eye(3))),
        "solver": dfx.ReversibleHeun(),
        "stepsize_controller": steps_of("adaptive")[0],
        "max_steps": 64,
    } | change
    terms, solver = given.pop("terms"), given.pop("solver")
    args = {"scale": jnp.ones(())}
    with pytest.raises(ValueError, match=message):
        dfx.diffeqsolve(terms, solver, 0.0, 1.0, 0.1, jnp.ones(3), args, adjoint=frx.ReversibleAdjoint(), **given)


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"^Reversible\(solver\) takes an explicit Runge-Kutta method of diffrax"):
        frx.Reversible(dfx.ReversibleHeun())
    with pytest.raises(ValueError, match=r"^coupling=1\.5 is outside \(0, 1\]\.$"):
        frx.Reversible(dfx.Tsit5(), coupling=1.5)
    with pytest.raises(ValueError, match=r"^tolerance must be positive; got -1\.0\.$"):
        frx.ReversibleAdjoint(tolerance=-1.0)


def test_step_limit():
    """A solve that runs out of steps says so, and what it did not reach is infinite, as in diffrax."""
    for controller, dt0 in (steps_of("adaptive"), (dfx.StepTo(np.linspace(0, 1, 101)), None)):
        ours, theirs = (
            dfx.diffeqsolve(
                ode(parameters("float32")[1], None),
                dfx.ReversibleHeun(),
                0.0,
                1.0,
                dt0,
                parameters("float32")[0],
                parameters("float32")[2],
                saveat=dfx.SaveAt(ts=np.float32(TIMES)),
                stepsize_controller=controller,
                adjoint=adjoint,
                max_steps=8,
                throw=False,
            )
            for adjoint in (frx.ReversibleAdjoint(), dfx.RecursiveCheckpointAdjoint())
        )
        assert ours.result == dfx.RESULTS.max_steps_reached
        assert_close((ours.ts, ours.ys), (theirs.ts, theirs.ys), 1e-5)
