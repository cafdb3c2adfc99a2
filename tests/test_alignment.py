"""Point-wise alignment against scipy and numpy's decompositions, degenerate shapes included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from flowrax.coupling import kabsch, kabsch_cost

NUM_POINTS = 12
FLATTEN = {
    "general": np.ones(3),
    "nearly coplanar": np.asarray([1.0, 1.0, 1e-3]),
    "coplanar": np.asarray([1.0, 1.0, 0.0]),
    "nearly collinear": np.asarray([1.0, 1e-3, 1e-3]),
    "collinear": np.asarray([1.0, 0.0, 0.0]),
    "one point": np.zeros(3),
}


def shapes(name, num, seed):
    """`(num, p, 3)` off-centre, flattened along axes of their own."""
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(num, NUM_POINTS, 3)) * FLATTEN[name]
    return points @ Rotation.random(num, rng).as_matrix() + rng.normal(size=(num, 1, 3))


def best(x, y):
    """The least squared distance by numpy's decomposition of the centred points in double precision."""
    x, y = (np.asarray(z, np.float64) - np.mean(np.asarray(z, np.float64), axis=0) for z in (x, y))
    u, s, vt = np.linalg.svd(x.T @ y)
    s[2] *= np.sign(np.linalg.det(u @ vt))
    return np.sum(x**2) + np.sum(y**2) - 2 * np.sum(s)


def pairs(name, dtype):
    """Other shapes, turned copies and mirror images of each."""
    x, other = shapes(name, 6, 0), shapes(name, 6, 1)
    turned = x @ Rotation.random(6, np.random.default_rng(2)).as_matrix()
    mirrored = turned * np.asarray([1.0, 1.0, -1.0])
    return x.astype(dtype), np.concatenate([other, turned, mirrored]).astype(dtype)


@pytest.mark.accuracy
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", FLATTEN)
def test_costs_and_rotations_are_the_best(name, dtype, x64):
    x, y = pairs(name, dtype)
    want = np.asarray([[best(a, b) for b in y] for a in x])
    # Roundings of the squared norms, of which the cost is a difference.
    centred = [np.sum((z - z.mean(1, keepdims=True)) ** 2, axis=(1, 2)) for z in (x, y)]
    size = centred[0][:, None] + centred[1][None] + 1e-3
    tolerance = 20 * np.finfo(dtype).eps * size
    cost = np.asarray(jax.jit(kabsch_cost)(jnp.asarray(x), jnp.asarray(y)))
    assert cost.dtype == dtype
    assert np.all(np.abs(cost - want) <= tolerance)
    rotations = np.asarray(jax.jit(jax.vmap(jax.vmap(kabsch, (None, 0)), (0, None)))(jnp.asarray(x), jnp.asarray(y)))
    identity = np.broadcast_to(np.eye(3), rotations.shape)
    assert np.allclose(rotations @ rotations.swapaxes(-1, -2), identity, rtol=0, atol=10 * np.finfo(dtype).eps)
    assert np.allclose(np.linalg.det(rotations), 1, rtol=0, atol=10 * np.finfo(dtype).eps)
    x, y = (z.astype(np.float64) - z.astype(np.float64).mean(1, keepdims=True) for z in (x, y))
    reached = np.sum((np.einsum("npj,nmij->nmpi", x, rotations.astype(np.float64)) - y[None]) ** 2, axis=(2, 3))
    assert np.all(np.abs(reached - want) <= tolerance)


def test_the_rotation_is_scipys(x64):
    x, y = shapes("general", 20, 3), shapes("general", 20, 4)
    for a, b in zip(x, y, strict=True):
        want = Rotation.align_vectors(b - b.mean(0), a - a.mean(0))[0]
        assert np.allclose(kabsch(jnp.asarray(a), jnp.asarray(b)), want.as_matrix(), rtol=0, atol=1e-12)


@pytest.mark.accuracy
def test_a_mask_is_as_good_as_leaving_points_out(x64):
    x, y = (jnp.asarray(shapes("general", 4, seed)) for seed in (5, 6))
    mask = jnp.arange(NUM_POINTS) % 3 > 0
    kept = np.flatnonzero(mask)
    assert np.allclose(kabsch_cost(x, y, mask), kabsch_cost(x[:, kept], y[:, kept]), rtol=1e-12)
    assert np.allclose(kabsch(x[0], y[0], mask), kabsch(x[0][kept], y[0][kept]), rtol=0, atol=1e-12)


@pytest.mark.accuracy
def test_single_precision_is_right_to_rounding_on_many_shapes():
    """4,096 pairs of 32 points: three sweeps are enough."""
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(64, 32, 3)).astype(np.float32) for _ in range(2))
    cost = np.asarray(kabsch_cost(jnp.asarray(x), jnp.asarray(y)))
    want = np.asarray([[best(a, b) for b in y] for a in x])
    assert np.max(np.abs(cost / want - 1)) <= 2e-6


def test_wrong_shapes_are_sentences():
    with pytest.raises(ValueError, match=r"x has shape \(4, 2\) but \(4, 3\) is expected"):
        kabsch(jnp.zeros((4, 2)), jnp.zeros((4, 2)))
    with pytest.raises(ValueError, match=r"One row of y has shape \(5, 3\) but \(4, 3\) is expected"):
        kabsch_cost(jnp.zeros((2, 4, 3)), jnp.zeros((2, 5, 3)))
