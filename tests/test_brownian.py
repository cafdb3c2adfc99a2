"""The Brownian increments of a grid and of a tree: their moments, and what they depend on."""

import functools

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowrax.stepper import BrownianTree, GridBrownianPath, levy_area_of
from flowrax.stepper.brownian_tree import chen, halving

TIMES = np.float32([0.0, 0.1, 0.15, 0.4, 1.0])
NUM = 20_000


def increments(key, shape=(2,)):
    """W, H and K over every interval of the grid, `(3, 4, *shape)`, each in units of its own standard deviation."""
    path = GridBrownianPath(jnp.asarray(TIMES), shape, key, dtype=jnp.float32, levy_area=dfx.SpaceTimeTimeLevyArea)

    def one(t0, t1):
        record = path.evaluate(t0, t1, use_levy=True)
        h = t1 - t0
        return jnp.stack([record.W / jnp.sqrt(h), record.H / jnp.sqrt(h / 12), record.K / jnp.sqrt(h / 720)])

    return jax.vmap(one, out_axes=1)(TIMES[:-1], TIMES[1:])


def test_moments_and_independence():
    """All 24 numbers of a path are uncorrelated with mean 0, variance 1 and kurtosis 3, within 5 standard errors."""
    z = jax.jit(jax.vmap(increments))(jax.random.split(jax.random.key(0), NUM))
    z = np.asarray(z, np.float64).reshape(NUM, -1)
    assert z.shape[1] == 24
    assert np.max(np.abs(z.mean(0))) <= 5 / NUM**0.5
    second = z.T @ z / NUM
    deviation = np.where(np.eye(24), np.sqrt(2 / NUM), np.sqrt(1 / NUM))
    assert np.all(np.abs(second - np.eye(24)) <= 5 * deviation)
    assert np.max(np.abs(np.mean(z**4, axis=0) - 3)) <= 5 * (96 / NUM) ** 0.5


@pytest.mark.accuracy
def test_a_path_does_not_depend_on_its_batch():
    keys = jax.random.split(jax.random.key(0), 7)
    whole = jax.jit(jax.vmap(increments))(keys)
    assert np.array_equal(whole[:3], jax.jit(jax.vmap(increments))(keys[:3]))
    assert np.allclose(whole[0], increments(keys[0]), rtol=0, atol=1e-6)


@pytest.mark.accuracy
def test_an_interval_draws_from_its_number_alone():
    """A grid of other times has the same numbers, scaled by the root of its lengths; evaluation repeats them."""
    times = TIMES**2
    one = GridBrownianPath(jnp.asarray(TIMES), (2,), jax.random.key(0), dtype=jnp.float32)
    other = GridBrownianPath(jnp.asarray(times), (2,), jax.random.key(0), dtype=jnp.float32)
    for k in range(4):
        a, b = one.evaluate(TIMES[k], TIMES[k + 1]), other.evaluate(times[k], times[k + 1])
        scale = np.sqrt((times[k + 1] - times[k]) / (TIMES[k + 1] - TIMES[k]))
        assert np.allclose(b, a * scale, rtol=1e-5)
        assert np.array_equal(a, one.evaluate(TIMES[k], TIMES[k + 1]))


def test_increments_only():
    path = GridBrownianPath(jnp.asarray(TIMES), (2,), jax.random.key(0), dtype=jnp.float32)
    with pytest.raises(ValueError, match=r"^GridBrownianPath provides increments only; pass both t0 and t1\.$"):
        path.evaluate(0.1)


@pytest.mark.parametrize(
    ("solver", "record"),
    [
        (dfx.Euler(), dfx.BrownianIncrement),
        (dfx.SEA(), dfx.SpaceTimeLevyArea),
        (dfx.ShARK(), dfx.SpaceTimeLevyArea),
        (dfx.ALIGN(), dfx.SpaceTimeLevyArea),
        (dfx.QUICSORT(), dfx.SpaceTimeTimeLevyArea),
        (dfx.HalfSolver(dfx.ShARK()), dfx.SpaceTimeLevyArea),
    ],
)
def test_levy_area_of_a_solver(solver, record):
    """The record that diffrax's table of solvers names, also inside a wrapper."""
    assert levy_area_of(solver) is record


@pytest.mark.accuracy
def test_an_sde_solve_on_a_grid_uses_every_increment():
    """dX = dW by Euler is the sum of the increments, and by ShARK too."""
    times = jnp.asarray(TIMES)
    for solver in (dfx.Euler(), dfx.ShARK()):
        path = GridBrownianPath(times, (2,), jax.random.key(0), dtype=jnp.float32, levy_area=levy_area_of(solver))
        terms = dfx.MultiTerm(
            dfx.ODETerm(lambda t, y, args: jnp.zeros_like(y)),
            dfx.ControlTerm(lambda t, y, args: jnp.eye(2), path),
        )
        solution = dfx.diffeqsolve(
            terms, solver, times[0], times[-1], None, jnp.zeros(2), stepsize_controller=dfx.StepTo(ts=times)
        )
        total = sum(path.evaluate(a, b) for a, b in zip(TIMES[:-1], TIMES[1:], strict=True))
        assert np.allclose(solution.ys[0], total, rtol=0, atol=1e-5)


def test_the_increment_is_the_same_whatever_areas_are_asked_for():
    """So that solvers of every kind can be compared on one path."""
    areas = dfx.BrownianIncrement, dfx.SpaceTimeLevyArea, dfx.SpaceTimeTimeLevyArea
    times, key = jnp.asarray(TIMES), jax.random.key(0)
    paths = [GridBrownianPath(times, (3,), key, dtype=jnp.float32, levy_area=area) for area in areas]
    want = paths[0].evaluate(TIMES[1], TIMES[2])
    for path in paths:
        assert np.array_equal(path.evaluate(TIMES[1], TIMES[2], use_levy=True).W, want)


def test_two_intervals_have_no_increment():
    """Of a solver that steps over both, and asked for directly; each of them has one, at either end too."""
    times = jnp.asarray(TIMES)
    path = GridBrownianPath(times, (2,), jax.random.key(0), dtype=jnp.float32)
    assert all(np.all(np.isfinite(path.evaluate(a, b))) for a, b in zip(TIMES[:-1], TIMES[1:], strict=True))
    assert all(np.all(np.isnan(path.evaluate(a, b))) for a, b in zip(TIMES[:-2], TIMES[2:], strict=True))
    terms = dfx.ControlTerm(lambda t, y, args: jnp.eye(2), path)
    controller, solver = dfx.StepTo(times), dfx.LeapfrogMidpoint()
    with pytest.warns(UserWarning, match="not marked as converging"):
        end = dfx.diffeqsolve(terms, solver, 0.0, 1.0, None, jnp.zeros(2), stepsize_controller=controller).ys
    assert np.all(np.isnan(end))


def tree_areas(key, t0, t1, dtype=jnp.float64, shape=()):
    """W, H and K from `t0` to `t1` of a tree over [1, 3], `(3, *shape)`."""
    start, end = jnp.asarray(1.0, dtype), jnp.asarray(3.0, dtype)
    tree = BrownianTree(start, end, shape, key, dtype=dtype, levy_area=dfx.SpaceTimeTimeLevyArea)
    record = tree.evaluate(jnp.asarray(t0, dtype), jnp.asarray(t1, dtype), use_levy=True)
    return jnp.stack([record.W, record.H, record.K])


@pytest.mark.parametrize("count", [1, 2, 3])
def test_halves_of_an_interval_are_independent(count):
    gain, noise = halving(count)
    variances = np.array([1, 1 / 12, 1 / 720])[:count]
    covariance = gain @ np.diag(variances) @ gain.T + noise @ noise.T
    assert np.allclose(covariance, np.diag(np.tile(variances, 2)) / 2, atol=1e-15)


def test_the_areas_of_a_tree_are_those_of_its_path(x64):
    """W, H and K against their definitions, by sums over the values of one path at 2^14 times."""
    tree = BrownianTree(1.0, 3.0, (3,), jax.random.key(0), dtype=jnp.float64, levy_area=dfx.SpaceTimeTimeLevyArea)
    times = jnp.linspace(1.4, 2.9, 2**14 + 1)
    path = np.asarray(jax.jit(jax.vmap(lambda t: tree.evaluate(t)))(times))
    path, since, h = path - path[0], np.asarray(times - times[0])[:, None], 1.5
    bridge = path - since / h * path[-1]
    expected = path[-1], np.mean(bridge[1:], 0), np.mean((bridge * (h / 2 - since))[1:], 0) / h
    record = tree.evaluate(times[0], times[-1], use_levy=True)
    for got, wanted in zip((record.W, record.H, record.K), expected, strict=True):
        # A sum over intervals of h / n misses the areas H of each: sqrt(h (h / n)^2 / 12), a few times.
        assert np.allclose(got, wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("interval", [(1.0, 3.0), (1.3, 1.31), (1.123, 2.77), (2.0001, 2.0002)])
def test_moments_of_a_tree(interval, x64):
    keys = jax.random.split(jax.random.key(1), NUM)
    z = np.asarray(jax.jit(jax.vmap(lambda key: tree_areas(key, *interval)))(keys))
    z = z / np.sqrt((interval[1] - interval[0]) * np.array([1, 1 / 12, 1 / 720]))
    deviation = np.where(np.eye(3), np.sqrt(2 / NUM), np.sqrt(1 / NUM))
    assert np.all(np.abs(z.T @ z / NUM - np.eye(3)) <= 5 * deviation)


def test_neighbouring_steps_of_a_tree_join(x64):
    key, times = jax.random.key(3), (1.25, 1.3125, 2.625)
    first, second, both = (tree_areas(key, times[i], times[j]) for i, j in ((0, 1), (1, 2), (0, 2)))
    assert np.allclose(jnp.stack(chen(first, 0.0625, second, 1.3125)), both, rtol=0, atol=1e-14)
    assert np.all(tree_areas(key, 1.5, 1.5) == 0)


def test_the_areas_of_a_short_step_keep_their_digits():
    """In float32, where the difference of two values of the path would leave an H of which no digit is right."""
    h, areas = np.float32(2.0**-18), jax.jit(functools.partial(tree_areas, dtype=jnp.float32))
    for start in (1.0, 1.5, 2.75):
        times = [start, start + h, start + 2 * h]
        first, second, both = (areas(jax.random.key(0), times[i], times[j]) for i, j in ((0, 1), (1, 2), (0, 2)))
        assert np.allclose(jnp.stack(chen(first, h, second, h)), both, rtol=0, atol=1e-6 * float(jnp.sqrt(h)))
    starts = np.float32(1 + np.arange(500) / 256)
    many = np.asarray(jax.vmap(lambda t: areas(jax.random.key(0), t, t + h))(starts), np.float64)
    variances = np.mean(many**2, 0) / (h * np.array([1, 1 / 12, 1 / 720]))
    assert np.all(np.abs(variances - 1) <= 5 * np.sqrt(2 / 500))
