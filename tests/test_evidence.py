"""A network with the evidence of each site: of independent sites the exact posterior is a constant network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowrax as frx

ROWS = np.random.default_rng(5).dirichlet(np.ones(4), 3)


class Constant(frx.model.AbstractNetwork):
    logits: jax.Array

    def __call__(self, t, x, condition=None, *, key=None):
        return self.logits


def paths():
    table = frx.schedule.DiscreteSchedule(np.linspace(0.2, 0.9, 4))
    uniform = frx.discrete.UniformCategorical((3,), 4)
    return {
        "uniform": (frx.discrete.LogLinearMasking(0.0), uniform),
        "custom": (frx.discrete.CosineMasking(), frx.discrete.Categorical((3,), [0.4, 0.3, 0.2, 0.1])),
        "ordinal": (frx.discrete.Ordinal(table, 4), uniform),
    }


@pytest.mark.parametrize("name", ["uniform", "custom", "ordinal"])
def test_bayes_theorem_of_independent_sites(name, x64):
    path, prior = paths()[name]
    network = frx.discrete.WithEvidence(Constant(jnp.log(jnp.asarray(ROWS))), path, prior)
    model = frx.CategoricalModel(network, path, prior=prior)
    exact = frx.discrete.oracle.Sites(ROWS).model(path, prior=prior)
    t, x = (a.ravel() for a in np.meshgrid([0.0, 0.25, 0.75], [0, 1], indexing="ij"))
    x = np.array([[0, 1, 2], [3, 3, 0]], np.int32)[x]
    got, want = (jax.jit(jax.vmap(m.log_probabilities))(jnp.asarray(t), jnp.asarray(x)) for m in (model, exact))
    np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12)


def test_no_doubt_is_left_near_the_data_so_that_the_bound_is_finite():
    """The same network without it has an infinite bound, of which draws see ever more."""
    schedule, prior = paths()["uniform"]
    plain = Constant(jnp.log(jnp.asarray(ROWS, jnp.float32)))
    x = np.array([[0, 1, 2], [3, 3, 0]] * 50)
    values = []
    for network in (frx.discrete.WithEvidence(plain, schedule, prior), plain):
        answer = frx.log_prob(frx.CategoricalModel(network, schedule, prior=prior), x, key=jax.random.key(0))
        values.append((np.asarray(answer.value).reshape(50, 2), np.asarray(answer.standard_error).reshape(50, 2)))
    (bound, error), (without, _) = values
    want = np.sum(np.log(ROWS[np.arange(3), x[:2]]), axis=1)
    assert np.all(np.abs(bound.mean(axis=0) - want) < 4 * np.sqrt(np.mean(error**2, axis=0) / 50))
    assert np.all(without.mean(axis=0) < bound.mean(axis=0) - 1)


def test_masks_need_none():
    with pytest.raises(ValueError, match="itself carries over unmasked tokens"):
        frx.discrete.WithEvidence(
            Constant(jnp.zeros((3, 5))), frx.discrete.LogLinearMasking(), frx.discrete.Masked((3,), 5)
        )
