"""Every function that takes rows checks their number and their values, and says where they are wrong."""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowrax as frx

KEY = jax.random.key(0)
ROWS = np.asarray(jax.random.normal(KEY, (5, 2)))
HOLE = np.where(np.arange(10).reshape(5, 2) == 7, np.nan, ROWS)
FAR = np.where(np.arange(5) == 3, np.inf, 1.0)
FINITE = "NaN or infinite values; remove or impute them first."


def model(condition_size=1):
    network = frx.nn.MLP((2,), key=KEY, width=4, depth=1, num_frequencies=2, condition_size=condition_size)
    return frx.Model(network, frx.Linear(), shape=(2,))


def fit(**options):
    options = {"data": ROWS, "condition": np.ones((5, 1)), "num_steps": 1, "batch_size": 2, "progress": False} | options
    return frx.fit(model(), key=KEY, **options)


def density(**options):
    made = frx.DensityEstimator(model(), condition={"m": np.float32(0)})
    options = {"data": ROWS, "condition": {"m": np.arange(5.0)}, "num_steps": 1, "progress": False} | options
    return made.fit(key=KEY, **options)


MESSAGES = {
    "fewer conditions": (lambda: fit(condition=np.ones((4, 1))), "condition has 4 rows but data has 5."),
    "one condition": (lambda: fit(condition=np.ones((1, 1))), "condition has 1 rows but data has 5."),
    "a number": (
        lambda: fit(condition=1.0),
        "condition is one value but data has 5 rows; give one value for each row.",
    ),
    "one leaf of two": (
        lambda: fit(condition={"a": np.ones((5, 1)), "b": np.ones((3, 1))}),
        "condition['b'] has 3 rows but data has 5.",
    ),
    "fewer held-out conditions": (
        lambda: fit(validation=ROWS, validation_condition=np.ones((3, 1))),
        "validation_condition has 3 rows but validation has 5.",
    ),
    "no held-out conditions": (lambda: fit(validation=ROWS), "validation_condition has the structure PyTreeDef(None)"),
    "NaN in data": (lambda: fit(data=HOLE), f"data holds 1 {FINITE} The first is in row 3, column 1."),
    "NaN in held-out data": (
        lambda: fit(validation=HOLE, validation_condition=np.ones((5, 1))),
        f"validation holds 1 {FINITE} The first is in row 3, column 1.",
    ),
    "infinity in a condition": (
        lambda: fit(condition={"a": FAR}),
        f"condition['a'] holds 1 {FINITE} The first is in row 3.",
    ),
    "text": (
        lambda: fit(condition=np.array(["a"] * 5, object)),
        "condition has dtype object, but an array of real numbers is expected",
    ),
    "no data": (lambda: fit(data=ROWS[:0], condition=np.ones((0, 1))), "data has no rows."),
    "no held-out data": (
        lambda: fit(validation=ROWS[:0], validation_condition=np.ones((0, 1))),
        "validation has no rows.",
    ),
    "NaN in x0": (
        lambda: fit(x0=HOLE),
        f"x0 holds 1 {FINITE} The first is in row 3, column 1.",
    ),
    "density: fewer conditions": (
        lambda: density(condition={"m": np.arange(4.0)}),
        "condition['m'] has 4 rows but data has 5.",
    ),
    "density: NaN": (lambda: density(condition={"m": FAR}), f"condition['m'] holds 1 {FINITE} The first is in row 3."),
    "density: no data": (lambda: density(data=ROWS[:0]), "data has no rows."),
    "log_prob: NaN in a condition": (
        lambda: frx.log_prob(model(), ROWS, condition=frx.Batched(FAR[:, None])),
        f"condition holds 1 {FINITE} The first is in row 3, column 0.",
    ),
    "sample: NaN in the condition": (
        lambda: frx.sample(model(), KEY, 5, condition=np.array([np.nan])),
        f"condition holds 1 {FINITE} The first is in row 0.",
    ),
    "log_prob: Batched forgotten": (
        lambda: frx.log_prob(model(), ROWS, condition=np.ones((5, 1))),
        "condition has 5 rows, one for each sample, but the network takes one of them; pass "
        "condition=Batched(condition).",
    ),
    "sample: Batched forgotten": (
        lambda: frx.sample(model(), KEY, 5, condition=np.ones((5, 1))),
        "condition has 5 rows, one for each sample, but the network takes one of them; pass "
        "condition=Batched(condition).",
    ),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_messages(name):
    call, message = MESSAGES[name]
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        call()


def test_lists_are_arrays():
    nested = fit(condition=[[1.0]] * 5).last_model
    assert eqx.tree_equal(nested, fit(condition=np.ones((5, 1))).last_model)


class Frame:
    """What the checks use of a data frame of pandas or polars, which the tests do not need."""

    def __init__(self, rows, columns):
        self.rows, self.columns = rows, columns

    def to_numpy(self):
        return self.rows


def test_columns_of_a_frame_are_named():
    with pytest.raises(ValueError, match="The first is in row 3, column 'y'"):
        model().events("x", Frame(HOLE, ["x", "y"]))


def test_a_frame_of_mixed_numbers_is_rows():
    """pandas gives the rows of integer and floating columns as objects where their kinds do not combine."""
    rows = np.array([[1, 2.5], [3, 4.0]], object)
    np.testing.assert_array_equal(model().events("x", Frame(rows, ["x", "y"])), [[1, 2.5], [3, 4]])


@pytest.mark.parametrize("condition", [np.ones(1), frx.Batched(np.ones((0, 1)))])
def test_the_log_prob_of_no_rows_is_empty(condition):
    got = frx.log_prob(model(), ROWS[:0], condition=condition, key=KEY, divergence=frx.Hutchinson())
    assert got.value.shape == got.standard_error.shape == (0,) and got.x0.shape == (0, 2)


@pytest.mark.parametrize("grid", [None, 3])
def test_the_bound_of_no_rows_is_empty(grid):
    tokens = frx.CategoricalModel(
        lambda t, x, c: jnp.zeros((3, 4)), frx.discrete.LogLinearMasking(), prior=frx.discrete.Masked((3,), 4)
    )
    got = frx.log_prob(tokens, np.zeros((0, 3), np.int32), key=KEY, grid=grid)
    assert got.is_bound and got.value.shape == got.standard_error.shape == (0,)


def test_no_rows_have_no_errors():
    options = dict(divergence=frx.Hutchinson(16), target_standard_error=0.1, discretisation_error=True, grid=2)
    got = frx.log_prob(model(), ROWS[:0], condition=np.ones(1), key=KEY, **options)
    assert got.value.shape == got.num_probes.shape == got.discretisation_error.shape == (0,)
