"""Augmentations against those of bionemo-moco 0.0.2.2, exact in double precision.

Its masks go with the noise, ours with the data; costs and rotations of masked rows are compared with the ends swapped.
"""

import pathlib

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from flowrax.coupling import EquivariantOT, ExactOT, Kabsch, KabschDistance, PerNoise, SquaredDistance, kabsch

REFERENCE = np.load(pathlib.Path(__file__).parent / "reference" / "moco_augmentation.npz")
X0, X1, MASK = REFERENCE["x0"], REFERENCE["x1"], REFERENCE["mask"]
WHOLE = np.all(MASK == 1, axis=1)
pytestmark = pytest.mark.usefixtures("x64")


def itself(condition):
    return condition


def ends():
    return jnp.asarray(X0), jnp.asarray(X1)


def run(coupling, key, *args):
    return eqx.filter_jit(coupling)(key, *args)


def close(got, want):
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("cost", "name"), [(SquaredDistance, "ot"), (lambda **kw: KabschDistance(squared=False, **kw), "eqot")]
)
def test_costs_and_plans(cost, name):
    x0, x1 = ends()
    plain, masked = run(cost(), x1, x0, None).T, run(cost(mask=itself), x0, x1, jnp.asarray(MASK))
    close(plain, REFERENCE[f"{name}/cost"])
    close(masked, REFERENCE[f"{name}/cost_mask"])
    plans = [plain, *([masked] if f"{name}/plan_mask" in REFERENCE else [])]
    for costs, of in zip(plans, ("plan", "plan_mask"), strict=False):
        want = REFERENCE[f"{name}/{of}"]
        rows, columns = linear_sum_assignment(costs)
        close(want[rows, columns], 1 / 6)


@pytest.mark.parametrize(("options", "name"), [({"draw": PerNoise()}, "aug"), ({}, "aug_sortx1")])
def test_transport_in_either_order(options, name, key):
    pairs = ExactOT(**options)(key, *ends())
    np.testing.assert_array_equal(pairs.x0, REFERENCE[f"ot/{name}_x0"])
    np.testing.assert_array_equal(pairs.x1, REFERENCE[f"ot/{name}_x1"])


def test_equivariant_transport(key):
    coupling = EquivariantOT(cost=KabschDistance(squared=False), noise_to_data=False, draw=PerNoise())
    pairs = run(coupling, key, *ends())
    close(pairs.x0, REFERENCE["eqot/aug_x0"])
    close(pairs.x1, REFERENCE["eqot/aug_x1"])


def test_rotations_of_all_pairs():
    x0, x1 = ends()
    rotation = jax.jit(jax.vmap(jax.vmap(lambda a, b, m: kabsch(b, a, m), (None, 0, None)), (0, None, 0)))
    whole = np.ones_like(MASK)
    for mask, name in ((whole, "eqot/Rs"), (MASK, "eqot/Rs_mask")):
        got, want = np.asarray(rotation(x0, x1, jnp.asarray(mask, bool))), REFERENCE[name].swapaxes(2, 3)
        close(got, want)


def test_rotations_of_pairs():
    x0, x1 = ends()
    rotations = jax.jit(jax.vmap(kabsch))(x1, x0)
    close(rotations, REFERENCE["kabsch/R"])
    close(rotations[0], REFERENCE["kabsch/R_single"])
    pairs = run(Kabsch(noise_to_data=False, translate=True), jax.random.key(0), x0, x1)
    close(pairs.x1, REFERENCE["kabsch/aligned"])
    close(pairs.x1[0], REFERENCE["kabsch/aligned_single"])


@pytest.mark.parametrize("noise_to_data", [True, False])
def test_alignment(noise_to_data, key):
    name = f"kabsch/aug_n2d{int(noise_to_data)}"
    pairs = run(Kabsch(noise_to_data=noise_to_data, translate=True), key, *ends())
    close(pairs.x0, REFERENCE[f"{name}_x0"])
    close(pairs.x1, REFERENCE[f"{name}_x1"])


@pytest.mark.accuracy
@pytest.mark.parametrize("noise_to_data", [True, False])
def test_padding_has_no_part_in_an_alignment(noise_to_data, key):
    """Theirs lets padded zeros into centres and covariance: rows without padding agree, the others are no optimum."""
    name = f"kabsch/aug_n2d{int(noise_to_data)}_mask"
    coupling = Kabsch(noise_to_data=noise_to_data, translate=True, mask=itself)
    pairs = run(coupling, key, *ends(), jnp.asarray(MASK))
    close(pairs.x0[WHOLE], REFERENCE[f"{name}_x0"][WHOLE])
    close(pairs.x1[WHOLE], REFERENCE[f"{name}_x1"][WHOLE])
    for row in np.flatnonzero(~WHOLE):
        kept = MASK[row] == 1
        alone = run(Kabsch(noise_to_data=noise_to_data, translate=True), key, *(z[row : row + 1, kept] for z in ends()))
        close(pairs.x0[row, kept], alone.x0[0])
        close(pairs.x1[row, kept], alone.x1[0])
        close(pairs.x0[row, ~kept], 0)
        close(pairs.x1[row, ~kept], 0)
        ours = np.sum((pairs.x0[row] - pairs.x1[row]) ** 2)
        theirs = np.sum((REFERENCE[f"{name}_x0"][row] - REFERENCE[f"{name}_x1"][row]) ** 2)
        assert ours < theirs - 1e-3


def test_no_reflections():
    """The mirror image of a shape, turned back onto it as far as a rotation can."""
    _, x1 = ends()
    got = jax.jit(kabsch)(jnp.asarray(REFERENCE["kabsch/reflect_in"]), x1[0])
    close(got, REFERENCE["kabsch/reflect_R"])
    close(jnp.linalg.det(got), REFERENCE["kabsch/reflect_det"])
