"""Runge-Kutta methods made reversible: their order, their error estimate, and the way back; what is refused."""

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowrax as frx
from flowrax.stepper.reversal import RungeKuttaReversal, Times, reversal_of
from reversing import Field, Spread, assert_close, ode, parameters, steps_of

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


@pytest.mark.accuracy
def test_error_estimate_is_that_of_the_method(x64):
    """At the first step both copies are the state, so the embedded error is the method's own."""
    y0, weight, args = parameters()
    terms = ode(weight, None)
    for solver in (dfx.Tsit5(), dfx.Bosh3(), dfx.Heun()):
        state = solver.init(terms, 0.0, 0.1, y0, args)
        y1, error, _, _, _ = solver.step(terms, 0.0, 0.1, y0, args, state, False)
        ours = frx.Reversible(solver).step(terms, 0.0, 0.1, y0, args, y0, False)
        assert_close((ours[0], ours[1]), (y1, error), 1e-14)


REFUSED = {
    "solver": (
        {"solver": dfx.Tsit5()},
        r"^ReversibleAdjoint cannot reverse Tsit5; use diffrax's ReversibleHeun, SemiImplicitEuler or "
        r"LeapfrogMidpoint, or make an explicit Runge-Kutta method reversible: "
        r"flowrax\.Reversible\(diffrax\.Tsit5\(\)\)\.",
    ),
    "wrapper": (
        {"solver": dfx.HalfSolver(frx.Reversible(dfx.Heun()))},
        r"^ReversibleAdjoint cannot reverse HalfSolver; use diffrax's ReversibleHeun, ",
    ),
    "steps": (
        {"saveat": dfx.SaveAt(steps=True)},
        r"^ReversibleAdjoint saves at t0, t1 and ts only; pass SaveAt\(ts=\.\.\.\) instead\.",
    ),
    "dense": ({"saveat": dfx.SaveAt(dense=True)}, r"^ReversibleAdjoint saves at t0, t1 and ts only"),
    "event": (
        {"event": dfx.Event(lambda t, y, args, **kwargs: y[0] > 9)},
        r"^ReversibleAdjoint cannot end a solve at an event; use diffrax\.RecursiveCheckpointAdjoint\(\)\.",
    ),
    "jumps": (
        {"stepsize_controller": dfx.ClipStepSizeController(steps_of("adaptive")[0], jump_ts=[0.5])},
        r"^ReversibleAdjoint cannot cross jumps of the vector field; solve each piece separately\.",
    ),
    "max_steps": (
        {"max_steps": None},
        r"^ReversibleAdjoint stores the step times: pass max_steps, or a grid, diffrax\.StepTo\(ts=\.\.\.\)\.",
    ),
    "noise": (
        {
            "terms": dfx.ControlTerm(
                Spread(jnp.ones(())), dfx.UnsafeBrownianPath(jax.ShapeDtypeStruct((3,), jnp.float32), jax.random.key(0))
            ),
            "stepsize_controller": dfx.ConstantStepSize(),
        },
        r"^ReversibleAdjoint needs the same noise again in the backward pass, and UnsafeBrownianPath cannot ",
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
    with pytest.raises(ValueError, match=r"^Reversible\(solver\) needs an explicit Runge-Kutta method of diffrax"):
        frx.Reversible(dfx.ReversibleHeun())
    with pytest.raises(ValueError, match=r"^coupling=1\.5 is outside \(0, 1\]\.$"):
        frx.Reversible(dfx.Tsit5(), coupling=1.5)
    with pytest.raises(ValueError, match=r"^tolerance must be positive; got -1\.0\.$"):
        frx.ReversibleAdjoint(tolerance=-1.0)
