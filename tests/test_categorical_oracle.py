"""Markov chains and independent sites are the joint table of the same law; zeros in a table are no trouble."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import flowrax as frx

RNG = np.random.default_rng(3)
LENGTH, K = 4, 3
INITIAL = RNG.dirichlet(np.ones(K))
TRANSITION = RNG.dirichlet(np.ones(K), K)
# After 0 comes never 1, and 2 stays.
FIRST, BARRED = np.array([0.9, 0.1, 0.0]), np.array([[0.5, 0.0, 0.5], [0.3, 0.3, 0.4], [0.0, 0.0, 1.0]])
ROWS = RNG.dirichlet(np.ones(K), LENGTH)
EVENTS = np.array(list(itertools.product(range(K), repeat=LENGTH)))


def markov_table(initial, transition):
    follow = transition[EVENTS[:, :-1], EVENTS[:, 1:]]
    return (initial[EVENTS[:, 0]] * np.prod(follow, axis=1)).reshape((K,) * LENGTH)


LAWS = {
    "markov": (lambda: frx.discrete.oracle.Markov(INITIAL, TRANSITION, LENGTH), markov_table(INITIAL, TRANSITION)),
    "barred": (
        lambda: frx.discrete.oracle.Markov([0.9, 0.1, 0.0], BARRED, LENGTH),
        markov_table(np.array([0.9, 0.1, 0]), BARRED),
    ),
    "sites": (lambda: frx.discrete.oracle.Sites(ROWS), np.einsum("a,b,c,d->abcd", *ROWS)),
}
PRIORS = {
    "masked": lambda: frx.discrete.Masked.exclusive((LENGTH,), K),
    "mask of its own": lambda: frx.discrete.Masked((LENGTH,), K + 1, mask=1),
    "uniform": lambda: frx.discrete.UniformCategorical((LENGTH,), K),
    "custom": lambda: frx.discrete.Categorical((LENGTH,), [0.7, 0.3, 0.0]),
}


@pytest.fixture
def no_nans():
    with jax.debug_nans(True):
        yield


@pytest.mark.parametrize("name", LAWS)
def test_the_same_law_as_its_table(name, x64, no_nans):
    law, joint = LAWS[name][0](), frx.discrete.oracle.Joint(LAWS[name][1])
    np.testing.assert_allclose(law.log_prob(EVENTS), joint.log_prob(EVENTS), atol=1e-12)
    np.testing.assert_allclose(law.entropy, joint.entropy, atol=1e-12)
    np.testing.assert_allclose(law.entropy, stats.entropy(LAWS[name][1].ravel()), atol=1e-12)
    np.testing.assert_allclose(law.marginals, joint.marginals, atol=1e-12)


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("name", LAWS)
def test_posteriors_are_those_of_the_table(name, prior, x64, no_nans):
    """Of every state, those that cannot be included: against Bayes' rule over all events."""
    prior, schedule = PRIORS[prior](), frx.discrete.CosineMasking(1e-2)
    table, t = LAWS[name][1].ravel(), 0.4
    states = np.array(list(itertools.product(range(prior.num_classes), repeat=LENGTH)))
    data = np.delete(np.arange(prior.num_classes), [] if prior.mask is None else [prior.mask])
    alpha = float(schedule.alpha(t))
    seen = alpha * np.eye(prior.num_classes) + (1 - alpha) * np.asarray(prior.probabilities)
    likelihood = np.prod(seen[data[EVENTS][:, None, :], states[None]], axis=-1)
    evidence = table @ likelihood
    law = LAWS[name][0]()
    with np.errstate(divide="ignore"):
        want = np.log(evidence)
    got = jax.jit(lambda x: law.marginal_log_prob(schedule, prior, t, x))(states)
    np.testing.assert_allclose(got, want, atol=1e-12)
    model = law.model(schedule, prior=prior)
    logits = np.asarray(jax.jit(jax.vmap(lambda x: model.logits(t, x)))(jnp.asarray(states)))
    possible = evidence > 0
    for k, c in enumerate(data):
        share = np.stack([(table * (EVENTS[:, i] == k)) @ likelihood for i in range(LENGTH)], axis=-1)
        want = share[possible] / evidence[possible][:, None]
        np.testing.assert_allclose(np.exp(logits[possible][..., c]), want, atol=1e-12)
    assert np.all(np.exp(logits[~possible][..., data]) == pytest.approx(1 / K))


def test_evidence_that_one_end_calls_impossible(no_nans):
    """A chain that never changes: 40 sites speak for one class and 40 as strongly for the other, each by e^-10."""
    law = frx.discrete.oracle.Markov([0.5, 0.5], np.eye(2), 80)
    seen = jnp.where(jnp.arange(80)[:, None] < 40, jnp.array([[0.0, -10.0]]), jnp.array([[-10.0, 0.0]]))
    np.testing.assert_allclose(law.log_posterior(seen), np.log(0.5), atol=1e-4)


@pytest.mark.parametrize("name", LAWS)
def test_draws(name):
    law, table = LAWS[name][0](), LAWS[name][1].ravel()
    x = np.asarray(law.sample(jax.random.key(2), (20_000,)))
    counts = np.bincount(np.ravel_multi_index(x.T, (K,) * LENGTH), minlength=len(table))
    assert np.all(counts[table == 0] == 0)
    assert stats.chisquare(counts[table > 0], 20_000 * table[table > 0]).pvalue > 1e-3


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: frx.discrete.oracle.Sites([[0.5, 0.6]]), "deviation of a sum from one is 0.1"),
        (lambda: frx.discrete.oracle.Sites([0.5, 0.5]), r"shape \(L, K\)"),
        (lambda: frx.discrete.oracle.Markov([0.5, 0.5], [[1.5, -0.5], [0, 1]], 3), "transition must not be negative"),
        (lambda: frx.discrete.oracle.Markov([0.5, 0.5], [[1.0]], 3), "transition has shape"),
        (lambda: frx.discrete.oracle.Markov([1.0], [[1.0]], 0), "length must be at least 1"),
        (
            lambda: frx.discrete.oracle.Sites(ROWS).model(
                frx.discrete.CosineMasking(), prior=frx.discrete.UniformCategorical((LENGTH,), 2)
            ),
            "2 classes but the data have 3",
        ),
        (
            lambda: frx.discrete.oracle.Sites(ROWS).model(
                frx.discrete.CosineMasking(), prior=frx.discrete.UniformCategorical((5,), K)
            ),
            "event of the prior has shape",
        ),
    ],
)
def test_refusals(build, words):
    with pytest.raises(ValueError, match=words):
        build()
