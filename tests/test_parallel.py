"""Parallel-in-time sampling: the sequential answer to rounding or to the tolerance, in far fewer rounds."""

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowrax as frx
from laws import mixture

NUM, STEPS = 5, 60
ROUTES = {
    "Euler": (frx.ProbabilityFlow(), dfx.Euler()),
    "Heun": (frx.ProbabilityFlow(), dfx.Heun()),
    "Euler-Maruyama": (frx.ReverseSDE(t_max=0.99), dfx.Euler()),
    "ShARK": (frx.ReverseSDE(t_max=0.99), dfx.ShARK()),
}


@pytest.fixture(scope="module")
def model():
    with jax.enable_x64(True):
        return mixture(3, 2, "float64", seed=5).model(frx.VariancePreserving())


def sequential(model, key, route, num=NUM):
    dynamics, solver = ROUTES[route]
    return frx.sample(model, key, num, dynamics=dynamics, solver=solver, grid=STEPS).x


def parallel(model, key, route, num=NUM, **options):
    dynamics, solver = ROUTES[route]
    return frx.verb.parallel_sample(model, key, num, dynamics=dynamics, solver=solver, grid=STEPS, **options)


@pytest.mark.parametrize("route", ROUTES)
def test_without_tolerance_it_is_the_sequential_answer(route, model, key, x64):
    """The same draws with the same key, the same noise on the same grid; the steps run past no end of the window."""
    answer = parallel(model, key, route, window=17, tolerance=0.0)
    assert np.allclose(answer.x, sequential(model, key, route), rtol=0, atol=1e-11)
    assert np.all(answer.stats.num_steps <= STEPS)


def gronwall(model, dynamics):
    """The product of 1 + h |drift'| over the steps, less one, for a drift that is affine in the state."""
    times = np.linspace(*dynamics.interval(model), STEPS + 1)

    def slope(t):
        return jnp.linalg.norm(jax.jacfwd(lambda x: dynamics.drift(t, x, (model, None)))(jnp.zeros(2)), 2)

    return np.prod(1 + np.diff(times) * np.asarray(jax.vmap(slope)(jnp.asarray(times[:-1])))) - 1


@pytest.mark.accuracy
@pytest.mark.parametrize(("route", "saving"), [("Euler", 4), ("Euler-Maruyama", 2)])
def test_the_tolerance_bounds_the_error_and_buys_rounds(route, saving, key, x64):
    model = frx.oracle.Gaussian(np.array([0.5, -1.0]), np.array([[1.0, 0.6], [0.6, 0.45]])).model(
        frx.VariancePreserving()
    )
    bound, want = gronwall(model, ROUTES[route][0]), sequential(model, key, route, 64)
    rounds = [np.full(64, STEPS)]
    for tolerance in (1e-8, 1e-5, 1e-3):
        answer = parallel(model, key, route, 64, window=STEPS, tolerance=tolerance)
        error = np.sqrt(np.mean((answer.x - want) ** 2, axis=1))
        assert 0 < np.max(error) <= bound * tolerance
        assert np.median(error) <= tolerance
        rounds.append(np.asarray(answer.stats.num_steps))
        assert np.all(rounds[-1] <= rounds[-2])
        assert np.all(answer.stats.num_evaluations == rounds[-1] * STEPS)
    assert np.max(rounds[2]) <= STEPS / saving


def test_one_round_per_step_without_a_window(model, key, x64):
    answer = parallel(model, key, "Euler", window=1, tolerance=0.0)
    assert np.all(answer.stats.num_steps == STEPS)
    assert np.allclose(answer.x, sequential(model, key, "Euler"), rtol=0, atol=1e-12)


def test_a_field_that_ignores_the_state_takes_two_rounds(key):
    """The first update is the answer of every step; the second sees that nothing changed."""
    network = lambda t, x, condition: jnp.full_like(x, jnp.cos(t) * condition["a"])  # noqa: E731
    model = frx.Model(network, frx.Linear(), shape=(3,), dtype=jnp.float32)
    scale = jnp.arange(1.0, 5.0)
    options = {"condition": frx.Batched({"a": scale}), "x0": jnp.zeros((4, 3))}
    answer = frx.verb.parallel_sample(model, key, 4, grid=1000, window=1000, tolerance=1e-5, **options)
    assert np.all(answer.stats.num_steps == 2)
    assert np.allclose(answer.x, np.sin(1) * np.arange(1.0, 5.0)[:, None], rtol=2e-3)


def test_samples_do_not_depend_on_each_other(model, key, x64):
    many, few = (parallel(model, key, "Euler", n, tolerance=1e-4) for n in (NUM, 2))
    assert np.allclose(many.x[:2], few.x, rtol=0, atol=1e-12)
    assert np.array_equal(many.stats.num_steps[:2], few.stats.num_steps)


@pytest.mark.accuracy
def test_a_state_of_two_parts(key):
    """Underdamped Langevin carries positions and velocities, of a network too."""
    exact = mixture(3, 2, seed=5).model(frx.Linear())
    network = lambda t, x, c: exact.predict(t, x).score  # noqa: E731
    model = frx.Model(network, frx.Linear(), frx.Score(), shape=(2,), dtype=exact.dtype)
    options = {"dynamics": frx.UnderdampedLangevin(0.9, 0.2), "solver": dfx.ShOULD(), "grid": 20}
    want = frx.sample(model, key, 3, **options).x
    assert np.allclose(frx.verb.parallel_sample(model, key, 3, tolerance=0.0, **options).x, want, rtol=0, atol=1e-5)


def test_one_compilation(model, key, x64):
    parallel(model, key, "Euler", tolerance=1e-4)
    other = jax.random.key(7)
    with jax.no_tracing():
        parallel(model, other, "Euler", tolerance=1e-3)


def test_bad_arguments_are_sentences(model, key, x64):
    with pytest.raises(ValueError, match="window must be at least 1; got 0"):
        frx.verb.parallel_sample(model, key, 2, grid=4, window=0)
    for solver in (dfx.ReversibleHeun(), frx.Reversible(dfx.Heun())):
        with pytest.raises(ValueError, match=f"^{type(solver).__name__} carries a memory from step to step"):
            frx.verb.parallel_sample(model, key, 2, grid=4, solver=solver)
    # As in `sample`, predictions that the solver needs must be finite.
    network = frx.Model(lambda t, x, c: x, frx.schedule.Polynomial(2.0), shape=(2,), dtype=model.dtype)
    with pytest.raises(ValueError, match="DDIM needs the data prediction at t=0.0"):
        frx.verb.parallel_sample(network, key, 2, grid=4, solver=frx.DDIM())


def test_a_failed_state_is_reported(key):
    class Bad(eqx.Module):
        def __call__(self, t, x, condition):
            return jnp.where(t > 0.5, jnp.nan, 0.0).astype(x.dtype) * x

    model = frx.Model(Bad(), frx.Linear(), shape=(2,), dtype=jnp.float32)
    with pytest.raises(frx.SolveError, match="parallel_sample: 3 of 3 solves failed"):
        frx.verb.parallel_sample(model, key, 3, grid=8)
    answer = frx.verb.parallel_sample(model, key, 3, grid=8, throw=False)
    assert np.all(np.isnan(answer.x))


@pytest.mark.accuracy
def test_the_gradient_is_that_of_the_sequential_solve(model, key, x64):
    """Without a tolerance, with respect to the starts and to the model, under `jit`."""
    x0 = jax.random.normal(jax.random.fold_in(key, 1), (NUM, 2), jnp.float64)
    dynamics, solver = ROUTES["Euler-Maruyama"]

    def total(arguments, draw, **options):
        model, x0 = arguments
        return jnp.sum(draw(model, key, NUM, x0=x0, dynamics=dynamics, solver=solver, grid=20, **options).x ** 2)

    got = eqx.filter_jit(eqx.filter_grad(total))((model, x0), frx.verb.parallel_sample, tolerance=0.0)
    expected = eqx.filter_grad(total)((model, x0), frx.sample)
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True)
    assert all(np.allclose(a, b, rtol=1e-9, atol=1e-9) for a, b in pairs)
