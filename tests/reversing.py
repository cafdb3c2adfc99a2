"""What the tests of reversible solves share: a field, solves of it, and a comparison of trees."""

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

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


def steps_of(name):
    """A controller and a first step, in the precision of the moment."""
    if name == "grid":
        return dfx.StepTo(GRID), None
    return (dfx.ConstantStepSize(), 0.07) if name == "constant" else (dfx.PIDController(rtol=1e-4, atol=1e-4), 0.5)
