"""Orders of convergence: of ODE solvers on a closed-form flow, of SDE solvers on one Brownian path."""

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowrax as frx
from flowrax.dynamics import Constant
from laws import mixture

pytestmark = pytest.mark.accuracy


def slope(steps, errors):
    """Of -log(error) in log(steps), by least squares."""
    return -np.polyfit(np.log(steps), np.log(errors), 1)[0]


# Solver, its order, grids in the asymptotic regime.
FLOWS = {
    "Euler": (dfx.Euler(), 1, (256, 512, 1024)),
    "Heun": (dfx.Heun(), 2, (64, 128, 256)),
    "ReversibleHeun": (dfx.ReversibleHeun(), 2, (64, 128, 256)),
    "Dopri5": (dfx.Dopri5(), 5, (48, 96, 192)),
    "Tsit5": (dfx.Tsit5(), 5, (48, 96, 192)),
}


@pytest.fixture(scope="module")
def model():
    with jax.enable_x64(True):
        return frx.oracle.Gaussian(np.array([0.5, -1.0]), np.array([[1.0, 0.6], [0.6, 0.45]])).model(frx.Linear())


@pytest.mark.parametrize("name", FLOWS)
def test_order_on_the_flow_of_a_gaussian(name, model, x64):
    solver, order, grids = FLOWS[name]
    x0 = jax.random.normal(jax.random.key(0), (16, 2))
    want = model.oracle.flow(model.schedule, 0.0, 1.0, x0)
    errors = [
        np.max(np.abs(frx.sample(model, jax.random.key(0), 16, x0=x0, solver=solver, grid=n).x - want)) for n in grids
    ]
    assert abs(slope(grids, errors) - order) <= 0.15


@pytest.mark.parametrize("name", ["Euler", "Dopri5"])
def test_order_of_the_log_density(name, model, x64):
    """The augmented solve converges at the order of its solver too."""
    solver, order, grids = FLOWS[name]
    x = model.oracle.sample(jax.random.key(0), (16,))
    want = model.oracle.log_prob(x)
    errors = [np.max(np.abs(frx.log_prob(model, x, solver=solver, grid=n).value - want)) for n in grids]
    assert abs(slope(grids, errors) - order) <= 0.15


# Solver and its strong order for additive noise.
STRONG = {"Euler": (dfx.Euler(), 1.0), "SEA": (dfx.SEA(), 1.0), "ShARK": (dfx.ShARK(), 1.5)}
STEPS, FINE, PATHS = (16, 32, 64, 128), 1024, 64


@pytest.fixture(scope="module")
def strong_errors():
    """Root mean square over paths of the end state's error, per solver and number of steps."""
    with jax.enable_x64(True):
        model = mixture(3, 2, "float64", seed=3).model(frx.Linear())
        dynamics = frx.ReverseSDE(Constant(0.5), t_min=0.1, t_max=0.9)
        t0, t1 = dynamics.interval(model)

        def end(solver, step, key):
            def make_noise(shape, index):
                form, area = jax.ShapeDtypeStruct(shape, jnp.float64), dfx.SpaceTimeLevyArea
                return dfx.VirtualBrownianTree(t0, t1, (t1 - t0) / 2**13, form, key, levy_area=area)

            x0 = model.source_at(t0).draw(jax.random.fold_in(key, 1))
            terms, args = dynamics.terms(model, None, make_noise)
            return dfx.diffeqsolve(terms, solver, t0, t1, step, x0, args, max_steps=FINE + 1).ys[0]

        keys = jax.random.split(jax.random.key(0), PATHS)
        ends = {}
        for name, (solver, _) in STRONG.items():
            solve = jax.jit(jax.vmap(lambda step, key, solver=solver: end(solver, step, key), (None, 0)))
            counts = (*STEPS, FINE) if name == "ShARK" else STEPS
            ends[name] = {n: np.asarray(solve((t1 - t0) / n, keys)) for n in counts}
        truth = ends["ShARK"][FINE]
        return {name: [np.sqrt(np.mean((ends[name][n] - truth) ** 2)) for n in STEPS] for name in STRONG}


@pytest.mark.parametrize("name", STRONG)
def test_strong_order(name, strong_errors):
    errors = strong_errors[name]
    assert abs(slope(STEPS, errors) - STRONG[name][1]) <= 0.25
