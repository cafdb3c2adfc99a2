"""Bounds on log-probabilities of classes: tight with exact rates, and of so many steps as sums over all states say."""

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowrax as frx
from chains import all_states, exact_law
from flowrax.discrete.loss.categorical_bound import jump_terms, masked_terms
from flowrax.model import AbstractNetwork

TABLE = np.random.default_rng(0).dirichlet(np.full(9, 1.0)).reshape(3, 3)
EVENTS = np.indices((3, 3)).reshape(2, -1).T
ENTROPY = -np.sum(TABLE * np.log(TABLE))
PRIORS = {
    "masked": lambda: frx.discrete.Masked.exclusive((2,), 3),
    "uniform": lambda: frx.discrete.UniformCategorical((2,), 3),
    "custom": lambda: frx.discrete.Categorical((2,), [0.2, 0.3, 0.5]),
    "lacking": lambda: frx.discrete.Categorical((2,), [0.0, 0.6, 0.4]),
}


class Wrong(AbstractNetwork):
    """Logits of another law."""

    right: AbstractNetwork
    shift: jax.Array

    def __call__(self, t, x, condition=None, *, key=None):
        logits = self.right(t, x, condition)
        return logits + self.shift[None, : logits.shape[-1]]


def exact_model(name, schedule=None):
    schedule = frx.discrete.LogLinearMasking(0.0) if schedule is None else schedule
    return frx.discrete.oracle.Joint(TABLE).model(schedule, prior=PRIORS[name]())


def wrong_model(name):
    model = exact_model(name)
    network = Wrong(model.network, jnp.array([0.5, -0.4, 0.1, 0.0]))
    return frx.CategoricalModel(network, model.interpolant, prior=model.prior)


def left_of(model, lost, x1):
    """The probabilities of all states when every site is lost with that chance."""
    k = model.prior.num_classes
    sites = (1 - lost) * np.eye(k)[x1] + lost * np.asarray(model.prior.probabilities)
    return np.einsum("i,j->ij", *sites).ravel()


def continuous_bound(model, nodes=40):
    """Minus the bound of every event: quadrature over the share that is lost, and sums over all states."""
    states, schedule = all_states(model), model.interpolant.schedule
    points, weights = np.polynomial.legendre.leggauss(nodes)
    # A power, for the logarithm of what is lost where little is.
    lost, weights = ((1 + points) / 2) ** 4, 2 * ((1 + points) / 2) ** 3 * weights

    @jax.jit
    @jax.vmap
    def terms(lost):
        alpha = 1 - lost
        log_p = jax.vmap(lambda x: model.log_probabilities(schedule.time_at(alpha), x))(states)

        def one(x, log_p, x1):
            if model.prior.mask is None:
                return jnp.sum(jump_terms(model, jnp.exp(log_p), alpha, x, x1)) / (alpha * lost)
            return jnp.sum(masked_terms(model, log_p, x, x1)) / lost

        of_events = jax.vmap(one, in_axes=(None, None, 0))
        return jax.vmap(of_events, in_axes=(0, 0, None))(states, log_p, jnp.asarray(EVENTS))

    values = np.asarray(terms(jnp.asarray(lost)))
    laws = np.array([[left_of(model, m, x1) for x1 in EVENTS] for m in lost])
    # Of nodes n, states s and events e.
    return np.einsum("n,nes,nse->e", weights, laws, values)


def assert_agree(answer, want):
    """Draws of every event, one after the other, against minus the bounds: the squared standard errors are unbiased."""
    off = np.asarray(answer.value).reshape(9, -1) + want[:, None]
    error = np.asarray(answer.standard_error).reshape(9, -1)
    # Four standard errors of the mean, and of the variance over all: some 20 degrees of freedom a row, so mostly ours.
    assert np.all(np.abs(off.mean(axis=1)) < 4 * np.sqrt(np.mean(error**2, axis=1) / off.shape[1]))
    assert np.sum(off**2) == pytest.approx(np.sum(error**2), rel=0.3)


@pytest.mark.accuracy
@pytest.mark.parametrize("name", PRIORS)
def test_tight_for_every_event_with_the_exact_rates(name, x64):
    """And the draws of `log_prob` agree, with standard errors that are right."""
    model = exact_model(name)
    np.testing.assert_allclose(continuous_bound(model), -np.log(TABLE.ravel()), rtol=1e-7)
    rows = np.repeat(EVENTS, 60, axis=0)
    answer = frx.log_prob(model, rows, key=jax.random.key(0))
    assert answer.is_bound and answer.x0 is None and np.all(answer.stats.num_evaluations == 128)
    assert_agree(answer, -np.log(TABLE.ravel()))


def step_matrix(model, lost_before, lost_after):
    """`q(x_before | x_after)` for every class after (rows): more is lost before, going back."""
    ratio = (1 - lost_before) / (1 - lost_after)
    k = model.prior.num_classes
    return ratio * np.eye(k) + (1 - ratio) * np.asarray(model.prior.probabilities)


def chain_bound(model, grid):
    """Minus the bound of `grid` steps of every event, by products of matrices and sums over all states."""
    times = np.asarray(frx.discrete.Ancestral().times(model, grid))
    lost = np.asarray(model.interpolant.schedule.mask_probability(times))
    if model.prior.mask is not None:
        lost = lost / lost[0]
    k, pi = model.prior.num_classes, np.asarray(model.prior.probabilities)
    states = np.asarray(all_states(model))
    total = np.zeros(9)
    predict = jax.jit(jax.vmap(lambda t, x: model.log_probabilities(t, x), in_axes=(None, 0)))
    if model.prior.mask is None:
        start = (1 - lost[0]) * np.eye(k) + lost[0] * pi
        total += np.sum(np.nan_to_num(start * np.log(start / pi)).sum(axis=1)[EVENTS], axis=1)
    for j in range(len(times) - 1):
        given = np.exp(np.asarray(predict(times[j], jnp.asarray(states))))
        back, after = step_matrix(model, lost[j], lost[j + 1]), step_matrix(model, lost[j + 1], 0)
        before = step_matrix(model, lost[j], 0)
        # truth[c, x, n]: of class n after the step, from x before it, were the data c.
        joint = np.einsum("cn,nx->cxn", after, back)
        truth = np.divide(joint, before[:, :, None], out=np.zeros_like(joint), where=before[:, :, None] > 0)
        chain = np.einsum("sic,cixn->sixn", given, np.broadcast_to(truth[:, None], (k, 2, k, k)))
        for e, x1 in enumerate(EVENTS):
            law = left_of(model, lost[j], x1)
            for s in np.flatnonzero(law):
                for i in range(2):
                    q, p = truth[x1[i], states[s, i]], chain[s, i, states[s, i]]
                    total[e] += law[s] * np.sum(q[q > 0] * np.log(q[q > 0] / p[q > 0]))
    return total


CHAINS = {
    "masked": ("masked", frx.discrete.CosineMasking(0.05)),
    "uniform": ("uniform", frx.discrete.CosineMasking(0.05)),
    "custom": ("custom", frx.discrete.LogLinearMasking(0.0)),
}


@pytest.mark.accuracy
@pytest.mark.parametrize("wrong", [False, True])
@pytest.mark.parametrize("name", CHAINS)
def test_bound_of_a_chain(name, wrong, x64):
    """Draws agree with sums; the sums bound the exact law of what `sample` draws, event by event."""
    prior, schedule = CHAINS[name]
    model = exact_model(prior, schedule)
    if wrong:
        network = Wrong(model.network, jnp.array([0.5, -0.4, 0.1, 0.0]))
        model = frx.CategoricalModel(network, schedule, prior=model.prior)
    want = chain_bound(model, 5)
    law = exact_law(model, 5)[:3, :3]
    assert np.all(want >= -np.log(law.ravel()))
    assert np.sum(TABLE.ravel() * want) - ENTROPY > np.sum(TABLE * np.log(TABLE / law)) > 0
    answer = frx.log_prob(model, np.repeat(EVENTS, 30, axis=0), key=jax.random.key(1), grid=5)
    assert_agree(answer, want)


@pytest.mark.accuracy
@pytest.mark.parametrize("name", ["masked", "uniform"])
def test_a_chain_tightens_to_the_entropy_at_first_order(name, x64):
    gaps = [np.sum(TABLE.ravel() * chain_bound(exact_model(name), k)) - ENTROPY for k in (16, 32, 64)]
    assert np.allclose(np.log2(np.divide(gaps[:-1], gaps[1:])), 1, atol=0.15)


@pytest.mark.accuracy
def test_a_wrong_model_is_looser_by_what_it_is_wrong(x64):
    """Under masks that is a cross-entropy of the sites, whatever the schedule; the gap bounds the law's divergence."""
    right, wrong = continuous_bound(exact_model("masked")), continuous_bound(wrong_model("masked"))
    gap = np.sum(TABLE.ravel() * (wrong - right))
    law = exact_law(wrong_model("masked"), 64)[:3, :3]
    assert gap > np.sum(TABLE * np.log(TABLE / law)) > 0.01


@pytest.mark.accuracy
@pytest.mark.parametrize("name", ["masked", "uniform"])
def test_loss_has_the_bound_for_its_mean(name, x64):
    """As `fit` draws it: noise of the path, and even times that count lost sites."""
    model, loss, n = exact_model(name), frx.discrete.CategoricalBound(), 20_000
    keys = jax.random.split(jax.random.key(3), 3)
    x0 = jax.vmap(model.prior.draw)(jax.random.split(keys[0], n))
    noise = jax.vmap(model.interpolant.noise)(jax.random.split(keys[1], n), x0)
    t = loss.times(keys[2], n, 0.0, 1.0, jnp.float64)
    x1 = jnp.asarray([0, 2], jnp.int32)
    draws = np.asarray(jax.jit(jax.vmap(lambda t, x0: loss(model, t, x0, x1)))(t, noise))
    assert np.abs(draws.mean() + np.log(TABLE[0, 2])) < 4 * draws.std() / np.sqrt(n)


@pytest.mark.accuracy
def test_loss_leaves_out_what_is_no_site(x64):
    """Of independent sites under masks every draw is a share of the sum of the real ones: NaN on others is nothing."""
    rows = np.random.default_rng(4).dirichlet(np.ones(3), 5)
    model = frx.discrete.oracle.Sites(rows).model(
        frx.discrete.CosineMasking(), prior=frx.discrete.Masked.exclusive((5,), 3)
    )
    loss = frx.discrete.CategoricalBound(mask=lambda condition: condition)
    real, x1 = jnp.asarray([1, 0, 1, 1, 0]), jnp.asarray([0, 3, 1, 2, 3], jnp.int32)
    x0, level = jnp.full(5, 3, jnp.int32), jax.random.uniform(jax.random.key(0), (2000, 5))
    t = (jnp.arange(2000.0) + 0.5) / 2000
    draws = np.asarray(jax.jit(jax.vmap(lambda t, level: loss(model, t, (x0, level), x1, real)))(t, level))
    want = -np.log(rows[[0, 2, 3], [0, 1, 2]])
    # One, two or three of the real ones are lost, a third of the draws each: means of so many, times three.
    pairs = np.add.outer(want, want)[np.triu_indices(3, 1)] / 2
    possible = 3 * np.concatenate([want, pairs, [want.mean()]])
    assert np.all(np.min(np.abs(draws[:, None] - possible), axis=1) < 1e-12)
    assert np.abs(draws.mean() - want.sum()) < 4 * draws.std() / np.sqrt(2000)
    assert loss(model, 0.3, (x0, level[0]), x1, jnp.zeros(5)) == 0


@pytest.mark.accuracy
def test_bound_of_masks_is_that_of_any_schedule(x64):
    """The exact network does not see the time, so draw by draw; nothing is lost to the share left at the start."""
    schedules = [frx.discrete.LogLinearMasking(0.0), frx.discrete.LogLinearMasking(0.3), frx.discrete.CosineMasking()]
    values = [frx.log_prob(exact_model("masked", s), EVENTS, key=jax.random.key(2)).value for s in schedules]
    np.testing.assert_allclose(values[1:], [values[0]] * 2, rtol=1e-9)


@pytest.mark.accuracy
def test_bits_of_uniform_tokens():
    """Exactly two bits each of four classes, in one step or in the limit: all draws are the same."""
    oracle = frx.discrete.oracle.Sites(np.full((6, 4), 0.25))
    model = oracle.model(frx.discrete.CosineMasking(), prior=frx.discrete.Masked.exclusive((6,), 4))
    x = oracle.sample(jax.random.key(0), (5,))
    for grid in (None, 1):
        answer = frx.log_prob(model, x, key=jax.random.key(1), grid=grid)
        np.testing.assert_allclose(answer.bits_per_token(6), 2, rtol=1e-6)
        np.testing.assert_allclose(answer.standard_error, 0, atol=1e-5)


@pytest.mark.accuracy
@pytest.mark.parametrize("prior", [frx.discrete.Masked.exclusive((6,), 3), frx.discrete.UniformCategorical((6,), 3)])
def test_zeros_in_the_law(prior):
    """The third row cannot be, which masks show at once; no NaN on the way. Rows know nothing of one another."""
    law = frx.discrete.oracle.Markov([0.5, 0.5, 0.0], [[0.5, 0.0, 0.5], [0.3, 0.3, 0.4], [0.0, 0.0, 1.0]], 6)
    model = law.model(frx.discrete.LogLinearMasking(0.0), prior=prior)
    rows = np.array([[0, 0, 2, 2, 2, 2], [1, 0, 0, 0, 0, 2], [0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    with jax.debug_nans(True):
        answer = frx.log_prob(model, rows, key=jax.random.key(0))
    assert np.all(answer.result == frx.RESULTS.successful)
    good = [0, 1, 3]
    exact, error = np.asarray(law.log_prob(rows)), np.asarray(answer.standard_error)
    assert np.all(np.abs(np.asarray(answer.value)[good] - exact[good]) < 4 * error[good])
    assert exact[2] == -np.inf and (prior.mask is None or (answer.value[2] == -np.inf and error[2] == np.inf))
    apart = frx.log_prob(model, rows, key=jax.random.key(0), lanes=2)
    np.testing.assert_allclose(apart.value, answer.value, rtol=1e-5)


@pytest.mark.accuracy
def test_steps_of_any_matrices(x64):
    """The steps of independent sites are exact, whatever the noise: what is off is the source, by a closed form."""
    rows = np.random.default_rng(5).dirichlet(np.ones(4), 3)
    path = frx.discrete.Ordinal(frx.schedule.DiscreteSchedule(np.linspace(0.2, 0.9, 4)), 4)
    model = frx.discrete.oracle.Sites(rows).model(path, prior=frx.discrete.UniformCategorical((3,), 4))
    x = np.asarray([[0, 1, 2], [3, 3, 0]])
    left = np.asarray(path.marginal(model.prior, 0.0, jnp.arange(4)))
    gap = np.log(rows @ left * 4) @ left.T
    want = np.sum(-np.log(rows[np.arange(3), x]) + gap[np.arange(3), x], axis=1)
    answer = frx.log_prob(model, np.repeat(x, 100, axis=0), key=jax.random.key(0), grid=4)
    off = np.asarray(answer.value).reshape(2, 100) + want[:, None]
    error = np.asarray(answer.standard_error).reshape(2, 100)
    assert np.all(np.abs(off.mean(axis=1)) < 4 * np.sqrt(np.mean(error**2, axis=1) / 100))
    assert np.sum(np.abs(gap)) > 0.1
    with pytest.raises(ValueError, match="Ordinal has discrete steps and no rates"):
        frx.log_prob(model, x, key=jax.random.key(0))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"key": None}, "is a Monte Carlo bound; pass key="),
        ({"solver": dfx.Euler()}, "takes no solver"),
        ({"rtol": 1e-3, "divergence": frx.Hutchinson()}, "takes no rtol, divergence"),
        ({"max_steps": 10}, "takes no max_steps"),
        ({"grid": np.array([0.0, 0.5])}, "increasing times from 0.0"),
        ({"grid": 0}, "at least 1"),
    ],
)
def test_refusals(options, words):
    with pytest.raises(ValueError, match=words):
        frx.log_prob(exact_model("masked"), EVENTS, **({"key": jax.random.key(0)} | options))


def test_refuses_a_model_that_ends_in_noise():
    model = exact_model("masked")
    short = frx.CategoricalModel(model.network, model.interpolant, prior=model.prior, t_max=0.9)
    with pytest.raises(ValueError, match="ends at t_max=0.9"):
        frx.log_prob(short, EVENTS, key=jax.random.key(0))
