"""The step whose stages are written out is the one that diffrax loops over."""

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowrax.engine.stages import has_few_stages, step_by_stages

SOLVERS = [dfx.Heun, dfx.Midpoint, dfx.Ralston, dfx.Bosh3, dfx.Tsit5, dfx.Dopri5]
T0, T1 = 0.3, 0.45


def drift(t, y, args):
    """Of a state of two leaves, that depends on time and couples them."""
    return {"a": jnp.sin(args * t + y["a"]) - jnp.sum(y["b"]), "b": y["b"] * jnp.cos(t) + y["a"][:2]}


def noisy_terms():
    form = jax.ShapeDtypeStruct((2,), jnp.float64)
    noise = dfx.VirtualBrownianTree(0.0, 1.0, 1e-3, {"a": form, "b": form}, jax.random.key(0))

    def spread(t, y, args):
        return {"a": jnp.outer(jnp.cos(y["a"]), jnp.ones(2)), "b": jnp.diag(y["b"] * t)}

    return dfx.MultiTerm(dfx.ODETerm(drift), dfx.ControlTerm(spread, noise))


def both(solver, terms):
    y0 = {"a": jnp.asarray([0.2, -1.0, 0.7]), "b": jnp.asarray([1.5, -0.4])}
    t0, t1, args = jnp.asarray(T0), jnp.asarray(T1), jnp.asarray(2.0)
    theirs = solver.init(terms, t0, t1, y0, args)
    ours = None if theirs is None else (jnp.asarray(False), solver.func(terms, t0, y0, args))
    assert has_few_stages(solver, ours)
    return (
        step_by_stages(solver, terms, t0, t1, y0, args, ours),
        solver.step(terms, t0, t1, y0, args, theirs, False),
    )


def assert_same(ours, theirs):
    ours, theirs = (jax.tree.map(np.asarray, tree) for tree in (ours, theirs))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-15), ours, theirs)


@pytest.mark.parametrize("make", SOLVERS)
def test_step_error_and_interpolation(make, x64):
    """The states, error estimates and slopes of an ODE; where the last slope is used again, that too."""
    ours, theirs = both(make(), dfx.ODETerm(drift))
    assert_same(ours[:3], theirs[:3])
    assert_same(ours[3], theirs[3])
    assert bool(ours[4] == dfx.RESULTS.successful)
    middle = [make.interpolation_cls(t0=T0, t1=T1, **step[2]).evaluate(0.37) for step in (ours, theirs)]
    assert_same(*middle)


@pytest.mark.parametrize("make", [dfx.Heun, dfx.Ralston])
def test_step_of_an_sde(make, x64):
    ours, theirs = both(make(), noisy_terms())
    assert_same(ours[:3], theirs[:3])


class Own(dfx.Heun):
    """A subclass with a step of its own."""

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        raise NotImplementedError


@pytest.mark.parametrize(
    "solver",
    [
        dfx.Dopri8(),
        dfx.Euler(),
        dfx.Kvaerno3(),
        dfx.HalfSolver(dfx.Heun()),
        dfx.ReversibleHeun(),
        dfx.Heun(scan_kind="lax"),
        Own(),
        dfx.Sil3(),
        # It keeps no slope to use again.
        dfx.Dopri5(),
    ],
    ids=lambda solver: type(solver).__name__,
)
def test_what_is_left_to_the_solver(solver):
    assert not has_few_stages(solver, None)
