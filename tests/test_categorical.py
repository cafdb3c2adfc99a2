"""Categorical models: with the exact denoiser the samplers draw the joint law, and `fit` finds the denoiser."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

import flowrax as frx
from chains import exact_law

TABLE = np.random.default_rng(0).dirichlet(np.full(9, 4.0)).reshape(3, 3)
PRIORS = {
    "masked": lambda: frx.discrete.Masked.exclusive((2,), 3),
    "uniform": lambda: frx.discrete.UniformCategorical((2,), 3),
    "custom": lambda: frx.discrete.Categorical((2,), [0.2, 0.3, 0.5]),
}


@pytest.mark.accuracy
@pytest.mark.parametrize("name", PRIORS)
def test_ancestral_draws_the_joint_law(name, x64):
    """The law by sums falls to the table at first order, and 4e4 draws agree with the law by sums."""
    oracle = frx.discrete.oracle.Joint(TABLE)
    model = oracle.model(frx.discrete.LogLinearMasking(0.0), prior=PRIORS[name]())
    laws = {n: exact_law(model, n)[:3, :3] for n in (8, 16, 32)}
    errors = [np.abs(law - TABLE).sum() for law in laws.values()]
    assert np.allclose(np.log2(np.divide(errors[:-1], errors[1:])), 1, atol=0.15)
    x = np.asarray(frx.sample(model, jax.random.key(1), 40_000, grid=8).x)
    counts = np.bincount(np.ravel_multi_index(x.T, (3, 3)), minlength=9)
    assert stats.chisquare(counts, 4e4 * laws[8].ravel() / laws[8].sum()).pvalue > 1e-3


class Table(frx.model.AbstractNetwork):
    logits: jax.Array

    def __call__(self, t, x, condition=None, *, key=None):
        index = x[0] * 4 + x[1]
        return self.logits[index]


@pytest.mark.accuracy
def test_fit_finds_the_exact_denoiser(x64):
    """A table of logits for every masked state becomes the posterior of the data."""
    oracle = frx.discrete.oracle.Joint(TABLE)
    data = oracle.sample(jax.random.key(0), (4000,))
    model = frx.CategoricalModel(
        Table(jnp.zeros((16, 2, 4))), frx.discrete.LogLinearMasking(), prior=PRIORS["masked"]()
    )
    result = frx.fit(
        model, data, jax.random.key(1), optimizer=optax.adam(0.1), num_steps=300, batch_size=1000, progress=False
    )
    table = np.histogram2d(*np.asarray(data).T, bins=3)[0] / len(data)
    truth = frx.discrete.oracle.Joint(table).model(model.interpolant, prior=model.prior)
    for x in ([3, 3], [0, 3], [3, 2]):
        got, want = (np.exp(m.log_probabilities(0.5, jnp.asarray(x))) for m in (result.model, truth))
        assert np.allclose(got, want, atol=0.03)
