"""Plans and pairs against those of torchebm 0.8.9, exact in double precision."""

import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from flowrax.coupling import ExactOT, Greedy, PerNoise, Sinkhorn, SquaredDistance, UnbalancedSinkhorn

REFERENCE = np.load(pathlib.Path(__file__).parent / "reference" / "torchebm_couplings.npz")
pytestmark = pytest.mark.usefixtures("x64")


def ends():
    return jnp.asarray(REFERENCE["x0"]), jnp.asarray(REFERENCE["x1"])


def test_costs():
    x0, x1 = ends()
    cost = SquaredDistance()(x1, x0)
    np.testing.assert_allclose((cost / jnp.max(cost)).T, REFERENCE["cost_normalised"], rtol=0, atol=1e-14)


@pytest.mark.parametrize(("coupling", "name"), [(ExactOT, "exact_idx"), (Greedy, "greedy_idx")])
def test_permutations(coupling, name, key):
    """They keep the order of the noise."""
    x0, x1 = ends()
    pairs = coupling(draw=PerNoise())(key, x0, x1)
    np.testing.assert_array_equal(pairs.data_rows, REFERENCE[name])
    np.testing.assert_array_equal(pairs.x1, x1[REFERENCE[name]])
    np.testing.assert_array_equal(pairs.x0, x0)


@pytest.mark.parametrize(
    ("coupling", "name"),
    [
        (Sinkhorn(tolerance=1e-13), "sinkhorn_plan_reg0.05_100"),
        (UnbalancedSinkhorn(tolerance=1e-13), "unbalanced_plan_reg0.05_rm1_100"),
    ],
)
def test_plans(coupling, name):
    plan = jnp.exp(coupling.log_plan(*ends())).T
    # The 100 iterations of the reference end this close to the unbalanced plan.
    np.testing.assert_allclose(plan, REFERENCE[name], rtol=1e-5 if "unbalanced" in name else 1e-10, atol=1e-12)


def test_weights(key):
    pairs = UnbalancedSinkhorn(tolerance=1e-13, draw=PerNoise())(key, *ends())
    np.testing.assert_allclose(pairs.weights, REFERENCE["unbalanced_weights"], rtol=1e-5)
    np.testing.assert_array_equal(pairs.noise_rows, np.arange(8))
