"""Second-order products through a solve: against closed forms, float64 finite differences, and a loop over samples."""

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowrax as frx
from laws import mixture


def flow(model, x0, adjoint, grid=24, solver=None):
    solver = dfx.ReversibleHeun() if solver is None else solver
    return frx.sample(model, jax.random.key(0), len(x0), x0=x0, solver=solver, grid=grid, adjoint=adjoint).x


@pytest.mark.accuracy
def test_gauss_newton_of_a_linear_flow(x64):
    """Of |x1 - c|^2 / 2 it is A^T A, A being the closed-form flow's matrix, up to the discretisation's order 5."""
    model = frx.oracle.Gaussian(np.array([0.5, -1.0]), np.array([[1.0, 0.6], [0.6, 0.45]])).model(frx.Linear())
    x0, v = (jax.random.normal(key, (1, 2)) for key in jax.random.split(jax.random.key(0)))

    @jax.jit
    def product(x0, v):
        solver = frx.Reversible(dfx.Tsit5())
        _, jv = jax.jvp(lambda x0: flow(model, x0, dfx.ForwardMode(), solver=solver), (x0,), (v,))
        _, pull = jax.vjp(lambda x0: flow(model, x0, frx.ReversibleAdjoint(), solver=solver), x0)
        return pull(jv)[0]

    matrix = jax.jacobian(lambda x0: model.oracle.flow(model.schedule, 0.0, 1.0, x0[None])[0])(x0[0])
    assert np.allclose(product(x0, v)[0], matrix.T @ matrix @ v[0], rtol=1e-6)


@pytest.mark.accuracy
def test_hessian_of_a_nonlinear_flow(x64):
    """By DirectAdjoint against central differences of ReversibleAdjoint's gradient, on a mixture."""
    model = mixture(3, 2, "float64").model(frx.Linear())
    x0, v = (jax.random.normal(key, (2, 2)) for key in jax.random.split(jax.random.key(0)))

    def loss(x0, adjoint):
        return jnp.sum(jnp.sin(flow(model, x0, adjoint, grid=12)))

    exact = jax.jit(lambda x0, v: jax.jvp(jax.grad(lambda x: loss(x, dfx.DirectAdjoint())), (x0,), (v,))[1])(x0, v)
    gradient = jax.jit(jax.grad(lambda x: loss(x, frx.ReversibleAdjoint())))
    step = 1e-5
    difference = (gradient(x0 + step * v) - gradient(x0 - step * v)) / (2 * step)
    assert np.allclose(exact, difference, rtol=1e-6, atol=1e-6)


@pytest.mark.accuracy
def test_mapped_adaptive_second_derivatives_are_those_of_a_loop(x64):
    """Samples with their own numbers of adaptive steps, mapped over together or one at a time."""
    starts = jnp.array([[0.1, 0.2], [2.0, -1.0], [-0.7, 2.0]])
    v = jnp.array([1.0, -0.5])
    term = dfx.ODETerm(lambda t, y, args: jnp.stack([y[1], (1 - y[0] ** 2) * y[1] - y[0]]))

    def loss(y0):
        controller = dfx.PIDController(rtol=1e-2, atol=1e-2)
        options = {"adjoint": dfx.DirectAdjoint(), "max_steps": 16, "stepsize_controller": controller}
        solution = dfx.diffeqsolve(term, dfx.Bosh3(), 0.0, 1.0, 0.3, y0, **options)
        return jnp.sum(solution.ys**2), solution.stats["num_steps"]

    def product(y0):
        _, product, steps = jax.jvp(jax.grad(loss, has_aux=True), (y0,), (v,), has_aux=True)
        return product, steps

    together, steps = jax.jit(jax.vmap(product))(starts)
    one = jax.jit(product)
    assert len(set(np.asarray(steps).tolist())) > 1
    assert np.allclose(together, np.stack([one(y0)[0] for y0 in starts]), rtol=1e-9, atol=1e-11)
