"""Guidance of categorical models against powers of tables and against conditioning by sums over states."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowrax as frx
from flowrax import discrete
from flowrax.discrete import ClassifierFreeCategorical, FirstOrderRatio, LikelihoodRatio
from states import LINEAR, PRIORS, TABLE, exact, falls_at_order, law_after

LIKELIHOOD = np.random.default_rng(5).uniform(0.1, 1.0, (3, 3))


@pytest.mark.parametrize("prior", PRIORS)
def test_classifier_free_is_a_product_of_powers(prior, x64):
    """One site, all of whose draws are from the mixed table: of masks in any steps, else in one."""
    tables = np.array([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]])
    own, null = (exact(prior, table=table) for table in tables)
    for weight in (0.0, 0.4, 1.0, 3.0):
        law = law_after(
            ClassifierFreeCategorical(own, weight, other=null), discrete.MixtureJump(), 3 if prior == "masked" else 1
        )
        want = tables[0] ** weight * tables[1] ** (1 - weight)
        np.testing.assert_allclose(law[:3], want / want.sum(), atol=1e-14)


def test_the_null_condition_is_that_of_the_other_prediction(x64):
    model = frx.CategoricalModel(lambda t, x, c: c, LINEAR, prior=PRIORS["uniform"]((2,)), dtype=jnp.float64)
    own, null = np.random.default_rng(1).normal(size=(2, 2, 3))
    guided = ClassifierFreeCategorical(model, jnp.array([2.0, 0.5]), null=null)
    got = np.exp(guided.log_probabilities(0.5, jnp.zeros(2, jnp.int32), jnp.asarray(own)))
    want = np.exp(null + np.array([[2.0], [0.5]]) * (own - null))
    np.testing.assert_allclose(got, want / want.sum(1, keepdims=True), rtol=1e-13)
    samples = frx.sample(guided, jax.random.key(0), 8, condition=jnp.asarray(own), grid=4, dynamics=discrete.Euler())
    assert samples.x.shape == (8, 2)


def log_likelihood(prior, table=TABLE, likelihood=LIKELIHOOD):
    """log p(y | x_t) of an oracle by sums over the data."""
    model = exact(prior, table=table)
    data = jnp.asarray(np.indices(table.shape).reshape(table.ndim, -1).T)
    sites = jnp.arange(table.ndim)

    def function(t, x, condition):
        # At time zero itself no state but noise can be; the limit has a value.
        rows = jax.vmap(lambda x1: model.interpolant.marginal(model.prior, jnp.maximum(t, 1e-9), x1))(data)
        joint = jnp.asarray(table.ravel()) * jnp.prod(rows[:, sites, x], axis=1)
        return jnp.log(joint @ jnp.asarray(likelihood.ravel())) - jnp.log(jnp.sum(joint))

    return function


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize(
    "kind", [discrete.Euler, lambda guide: discrete.TauLeaping(1.0, guide=guide)], ids=["Euler", "TauLeaping"]
)
def test_an_exact_predictor_gives_the_conditional_law(kind, prior, x64):
    """p(x | y) by Bayes' rule, at first order in the steps."""
    want = TABLE * LIKELIHOOD / np.sum(TABLE * LIKELIHOOD)
    assert np.abs(want - TABLE).sum() > 0.2
    moves = kind(guide=LikelihoodRatio(log_likelihood(prior), batch_size=5))
    laws = [law_after(exact(prior), moves, n) for n in (32, 64, 128)]
    assert all(abs(law.sum() - 1) < 1e-12 and abs(law[:3, :3].sum() - 1) < 1e-12 for law in laws)
    assert falls_at_order([np.abs(law[:3, :3] - want).sum() for law in laws], 1)


def test_the_weight_is_a_power_of_the_likelihood(x64):
    """Of one masked site exactly, in any steps."""
    p, likelihood = TABLE[0] / TABLE[0].sum(), LIKELIHOOD[0]
    guide = LikelihoodRatio(log_likelihood("masked", p, likelihood), 2.5)
    law = law_after(exact("masked", table=p), discrete.Euler(guide=guide), 3)[:3]
    np.testing.assert_allclose(law, p * likelihood**2.5 / np.sum(p * likelihood**2.5), rtol=1e-12)


def test_one_gradient_is_enough_where_sites_add_up(x64):
    """And elsewhere its error is of second order in how much the predictor bends."""
    slopes = jnp.asarray(np.random.default_rng(2).normal(size=(2, 3)))
    model, x, bend = exact("uniform"), jnp.array([2, 0]), jnp.array([[0.3, -0.2, 0.7], [0.1, 0.9, -0.4]])

    def errors(size):
        def by_rows(t, rows, condition):
            return jnp.sum(slopes * rows) + size * jnp.sin(jnp.sum(bend * rows)) ** 2

        def by_classes(t, x, condition):
            return by_rows(t, jax.nn.one_hot(x, 3, dtype=jnp.float64), condition)

        first, exactly = (g.log_factor(model, 0.5, x) for g in (FirstOrderRatio(by_rows), LikelihoodRatio(by_classes)))
        return np.abs(first - exactly).max()

    assert errors(0.0) < 1e-14
    assert np.isclose(errors(0.2) / errors(0.1), 2)


def test_a_state_that_excludes_what_is_wanted_fails_and_says_so():
    """Where the likelihood is zero the ratio is none; the rows that got there are counted."""
    guide = LikelihoodRatio(lambda t, x, c: jnp.where(jnp.all(x == 0), 0.0, -jnp.inf))
    model = exact("uniform")
    samples = frx.sample(
        model, jax.random.key(0), 4, x0=jnp.array([[0, 0], [1, 1]] * 2), grid=1,
        dynamics=discrete.Euler(guide=guide), throw=False,
    )  # fmt: skip
    assert np.array_equal(samples.x[:, 0] == -1, [False, True] * 2)
    assert np.array_equal(samples.result == frx.RESULTS.successful, [True, False] * 2)
