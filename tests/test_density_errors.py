"""What the density estimator says of arguments that it cannot use."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowrax as frx

KEY, DATA = jax.random.key(0), np.random.default_rng(0).normal(size=(10, 2)).astype(np.float32)
FLAT = np.concatenate([DATA[:, :1], np.full((10, 1), 0.1, np.float32)], axis=1)
HOLES = np.where(DATA > 1.0, np.nan, DATA)


def small(size, condition_size=0, key=0):
    network = frx.nn.MLP(
        (size,), key=jax.random.key(key), condition_size=condition_size, width=32, depth=2, num_frequencies=4
    )
    return frx.Model(network, frx.Linear(), shape=(size,))


def conditional():
    return frx.DensityEstimator(small(2, 1), condition={"m": np.float32(0)})


def labelled():
    model = frx.Model(lambda t, x, c: c * x, frx.Linear(), shape=(2,))
    known = dict(shift=0, scale=1, condition_shift=0, condition_scale=1)
    return frx.DensityEstimator(model, condition=0, **known)


def centred():
    return frx.Model(
        lambda t, x, c: jnp.zeros_like(x), frx.Linear(), shape=(3, 2), prior=frx.prior.CentredGaussian((3, 2))
    )


MESSAGES = {
    "unfitted sample": (
        lambda: frx.DensityEstimator(small(2)).sample(KEY, 3),
        "This estimator has no density yet; call fit(data, key) and use the estimator it returns.",
    ),
    "unfitted log_prob": (
        lambda: frx.DensityEstimator(small(2)).log_prob(DATA),
        "This estimator has no density yet; call fit(data, key) and use the estimator it returns.",
    ),
    "no key": (
        lambda: frx.DensityEstimator((2,)),
        "DensityEstimator(shape) draws a network's weights; pass key=jax.random.key(...).",
    ),
    "constant column": (
        lambda: frx.DensityEstimator(small(2)).fit(FLAT, KEY),
        "data is constant in column 1 of 10 rows, so it has no scale; drop that column, or give the scale when you "
        "make the estimator.",
    ),
    "constant condition": (
        lambda: conditional().fit(DATA, KEY, condition={"m": np.ones(10)}),
        "condition is constant in column 0 of 10 rows, so it has no scale; drop that column, or give the scale when "
        "you make the estimator.",
    ),
    "NaN": (
        lambda: frx.DensityEstimator(small(2)).fit(HOLES, KEY),
        f"data holds {np.isnan(HOLES).sum()} NaN or infinite values; remove or impute them first. "
        f"The first is in row {np.argwhere(np.isnan(HOLES))[0][0]}, column {np.argwhere(np.isnan(HOLES))[0][1]}.",
    ),
    "wrong shape": (
        lambda: frx.DensityEstimator(small(3)).fit(DATA, KEY),
        "data has shape (10, 2) but (n, 3) is expected; the model's events have shape (3,).",
    ),
    "condition of another length": (
        lambda: conditional().fit(DATA, KEY, condition={"m": np.ones(9)}),
        "condition['m'] has 9 rows but data has 10.",
    ),
    "condition missing": (
        lambda: conditional().fit(DATA, KEY),
        "condition has the structure PyTreeDef(None) but this estimator expects PyTreeDef({'m': *}); the structure "
        "is set by DensityEstimator(..., condition=one condition as an example).",
    ),
    "numbers for labels": (
        lambda: labelled().log_prob(DATA, condition=0.7),
        "condition holds floating-point numbers where this estimator expects integer labels; pass integers, or make it "
        "with DensityEstimator(..., condition=an example with floating-point numbers).",
    ),
    "scales on a singular prior": (
        lambda: frx.DensityEstimator(centred(), shift=0, scale=np.ones((3, 2))),
        "A scale for each element leaves the range of the singular prior CentredGaussian; pass one number, scale=..., "
        "when you make the estimator.",
    ),
    "negative scale": (
        lambda: frx.DensityEstimator(small(2), scale=[1.0, -2.0]),
        "scale must be positive; its smallest element is -2.0.",
    ),
    "scale of another shape": (
        lambda: frx.DensityEstimator(small(2), scale=[1.0, 2.0, 3.0]),
        "scale has shape (3,) but (2,) or a scalar is expected.",
    ),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_messages(name):
    call, message = MESSAGES[name]
    with pytest.raises(ValueError) as error:
        call()
    assert str(error.value) == message
