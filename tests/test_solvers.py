"""Which diffrax solvers fit which dynamics: those that fit are right, the others are refused in one sentence."""

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowrax as frx
from flowrax import dynamics as dyn

FLOW = "ProbabilityFlow"


@pytest.fixture(scope="module")
def model():
    return frx.oracle.Gaussian(jnp.asarray([1.0, -2.0]), jnp.diag(jnp.asarray([0.25, 4.0]))).model(frx.Linear())


@pytest.mark.accuracy
def test_an_implicit_solver_agrees_with_an_explicit_one(model):
    """Adaptive steps, and their gradient: the root finder takes its tolerances from the step control."""
    x0 = jnp.asarray([[0.5, -1.0], [2.0, 0.3]])

    def total(x0, solver):
        draws = frx.sample(model, jax.random.key(0), 2, x0=x0, solver=solver, rtol=1e-5, atol=1e-5)
        return jnp.sum(draws.x**2), draws.x

    (_, x), gradient = jax.value_and_grad(total, has_aux=True)(x0, dfx.Kvaerno3())
    (_, exact), expected = jax.value_and_grad(total, has_aux=True)(x0, dfx.Dopri5())
    assert np.allclose(x, exact, rtol=0, atol=5e-4)
    assert np.allclose(gradient, expected, rtol=0, atol=5e-3)


@pytest.mark.accuracy
def test_an_implicit_solver_has_tolerances_on_a_grid(model):
    """The error of 100 steps of a method of first order, in a wrapper too."""
    x0 = jnp.asarray([[0.5, -1.0]])
    x = frx.sample(model, jax.random.key(0), 1, x0=x0, solver=dfx.HalfSolver(dfx.ImplicitEuler()), grid=100).x
    exact = frx.sample(model, jax.random.key(0), 1, x0=x0).x
    assert 1e-4 < float(jnp.max(jnp.abs(x - exact))) < 3e-2


@pytest.mark.parametrize(
    ("solver", "dynamics", "message"),
    [
        (dfx.ShARK(), dyn.ProbabilityFlow(), f"ShARK is a solver for noise, and {FLOW} has none"),
        (dfx.EulerHeun(), dyn.ProbabilityFlow(), f"EulerHeun is a solver for noise, and {FLOW} has none"),
        (dfx.ALIGN(), dyn.ProbabilityFlow(), f"ALIGN is a solver for noise, and {FLOW} has none"),
        (
            dfx.KenCarp4(),
            dyn.ProbabilityFlow(),
            f"KenCarp4 is a solver for a vector field in two parts, and {FLOW} has",
        ),
        (dfx.HalfSolver(dfx.Sil3()), dyn.ProbabilityFlow(), "Sil3 is a solver for a vector field in two parts"),
        (dfx.SemiImplicitEuler(), dyn.ReverseSDE(), "SemiImplicitEuler is a solver for a vector field in two parts"),
        (dfx.Kvaerno3(), dyn.ReverseSDE(), "Kvaerno3 is an implicit solver, and ReverseSDE has noise"),
        (dfx.Kvaerno3(), dyn.Langevin(0.5, 1.0), "Kvaerno3 is an implicit solver, and Langevin has noise"),
        (dfx.QUICSORT(), dyn.ReverseSDE(), "QUICSORT is a solver for UnderdampedLangevin only"),
        (dfx.Dopri5(), dyn.ReverseSDE(), "Dopri5 has no known order for noise, which adaptive steps need"),
    ],
)
def test_a_solver_that_does_not_fit_is_refused(model, solver, dynamics, message):
    with pytest.raises(ValueError, match=message):
        frx.sample(model, jax.random.key(0), 1, solver=solver, dynamics=dynamics)
