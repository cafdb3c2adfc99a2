"""Gradients of a solve that is run back: those of autodiff, in memory that does not grow; what it refuses, and says."""

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowrax as frx
from flowrax.stepper import GridBrownianPath
from laws import mixture
from reversing import (
    GRID,
    TIMES,
    Field,
    Spread,
    assert_close,
    contracted,
    ode,
    parameters,
    solve,
    steps_of,
    value_and_gradient,
)

# What the hook of an adjoint and its loop state look like is diffrax's own affair: look again before adding a version.
CHECKED = ("0.7.2",)

SOLVERS = {
    "ReversibleHeun": dfx.ReversibleHeun(),
    "LeapfrogMidpoint": dfx.LeapfrogMidpoint(),
    "SemiImplicitEuler": dfx.SemiImplicitEuler(),
    "Midpoint": frx.Reversible(dfx.Midpoint()),
    "Tsit5": frx.Reversible(dfx.Tsit5(), coupling=0.9),
}


# ReversibleHeun on a grid is `test_backward_in_time`, Tsit5's kind on a grid Midpoint.
CASES = [(solver, "grid") for solver in ("LeapfrogMidpoint", "SemiImplicitEuler", "Midpoint")]
CASES += [("ReversibleHeun", "constant"), ("ReversibleHeun", "adaptive"), ("Tsit5", "adaptive")]


def test_versions_of_diffrax():
    """The loop that the adjoint stands in for has been compared with ours on these versions."""
    assert dfx.__version__ in CHECKED


@pytest.mark.accuracy
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


def test_gradients_under_vmap(x64):
    """Of a batch in which the samples take different numbers of steps, with shared parameters."""
    y0, weight, args = parameters()
    batch = jnp.stack([y0, 3 * y0, -y0 / 5])
    controller, dt0 = steps_of("adaptive")

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
    assert len(set(np.asarray(same).tolist())) > 1


@pytest.mark.accuracy
@pytest.mark.parametrize(("name", "path"), [("ReversibleHeun", "tree"), ("Heun", "grid")])
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


@pytest.mark.accuracy
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


@pytest.mark.accuracy
def test_what_a_field_closes_over_is_differentiated(x64):
    """In and out of vmap, each sample's closure its own."""
    y0, weight, _ = parameters()

    def loss(weight, scales, adjoint):
        def end(scale):
            term = dfx.ODETerm(lambda t, y, args: jnp.tanh(scale * (weight @ y)))
            options = {"stepsize_controller": dfx.StepTo(GRID), "adjoint": adjoint, "max_steps": 12}
            return dfx.diffeqsolve(term, dfx.ReversibleHeun(), 0.0, 1.0, None, y0, **options).ys

        return jnp.sum(jnp.cos(jax.vmap(end)(scales))) + jnp.sum(jnp.sin(end(scales[0])))

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1)), static_argnums=2)
    scales = jnp.array([0.5, 1.0, 2.0])
    ours, theirs = (gradient(weight, scales, adjoint) for adjoint in (frx.ReversibleAdjoint(), dfx.DirectAdjoint()))
    assert np.min(np.abs(theirs[1])) > 1e-3
    assert_close(ours, theirs, 1e-10)


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


@pytest.mark.measured
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


@pytest.mark.accuracy
def test_a_solve_that_cannot_be_run_back_is_reported():
    with pytest.raises(Exception, match=r"ReversibleAdjoint: the reversed solve did not return to its initial state"):
        jax.block_until_ready(stiff(frx.ReversibleAdjoint()))
    value, gradient = stiff(frx.ReversibleAdjoint(throw=False))
    assert np.isfinite(value)
    assert np.all(np.isnan(gradient))
    # Asked to bear the error, it gives it.
    assert np.all(np.isfinite(stiff(frx.ReversibleAdjoint(tolerance=1e30))[1]))


@pytest.mark.accuracy
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


@pytest.mark.accuracy
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
