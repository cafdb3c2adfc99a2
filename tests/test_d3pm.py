"""D3PM: tables and matrices of noise against products in numpy, laws by sums over states, the exact bound."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats
from scipy.linalg import expm

import flowrax as frx
from chains import exact_law
from flowrax.discrete import D3PM, AveragedJoint, Hybrid, Ordinal, TabulatedMasking, Transitions
from flowrax.schedule import DiscreteSchedule, ddpm_cosine, ddpm_linear

NUM = 4
RANDOM = np.random.default_rng(0)
LAW = RANDOM.dirichlet(np.full(NUM, 2.0))
PAIRS = RANDOM.dirichlet(np.full(NUM**2, 2.0)).reshape(NUM, NUM)
MATRICES = RANDOM.dirichlet(np.full(NUM, 0.5), size=(7, NUM))
RATES = DiscreteSchedule(np.linspace(0.1, 0.8, 7))
PRIORS = {
    "uniform": lambda shape: frx.discrete.UniformCategorical(shape, NUM),
    "custom": lambda shape: frx.discrete.Categorical(shape, [0.1, 0.2, 0.3, 0.4]),
    "masked": lambda shape: frx.discrete.Masked.exclusive(shape, NUM),
}


def looked_up(index):
    return jnp.asarray(MATRICES, float)[index]


def noises():
    """By name: noise of 7 steps, and its matrices."""
    ordinal = Ordinal(RATES, NUM)
    steps = np.asarray(jax.jit(jax.vmap(ordinal.matrix))(jnp.arange(7)))
    return {
        "ordinal": (ordinal, steps),
        "array": (Transitions(MATRICES), MATRICES),
        "function": (Transitions(looked_up, 7), MATRICES),
        "uniform": (RATES, np.array([(1 - b) * np.eye(NUM) + b / NUM for b in RATES.rates])),
    }


def product(matrices):
    return np.linalg.multi_dot([np.eye(NUM), np.eye(NUM), *matrices])


@pytest.mark.parametrize("name", ["ordinal", "array", "function", "uniform"])
def test_kernels_are_those_of_products(name, x64):
    """Rows, columns and posteriors at every index, over one step and over three, of tokens and of probabilities."""
    noise, steps = noises()[name]
    chain, classes = D3PM(noise, PRIORS["uniform"]((NUM,))), jnp.arange(NUM)

    @jax.jit
    def ours(index, to, p1):
        s, t = chain.time(index), chain.time(to)
        over = chain.path.transition(chain.prior, s, t, classes)
        columns = chain.path.likelihood(chain.prior, s, t, classes).T
        rest = chain.posterior(index, classes, p1, to=to), chain.posterior(index, classes, classes, to=to)
        return over, columns, chain.transition(index, classes), chain.marginal(index, classes), *rest

    for index in range(7):
        for to in (index - 1, max(index - 3, -1)):
            over, before = product(steps[to + 1 : index + 1]), product(steps[: to + 1])
            joint = before[:, :, None] * over[None]
            posterior = joint / joint.sum(axis=1, keepdims=True)
            want = (
                over,
                over,
                steps[index],
                product(steps[: index + 1]),
                np.einsum("d,dkx->xk", LAW, posterior),
                np.einsum("xkx->xk", posterior),
            )
            got = ours(index, to, jnp.broadcast_to(jnp.asarray(LAW), (NUM, NUM)))
            for one, other in zip(got, want, strict=True):
                np.testing.assert_allclose(one, other, atol=1e-12)


def test_ordinal_noise_is_a_gaussian_on_the_classes(x64):
    """Doubly stochastic; inside, of variance $(K - 1)^2 \\beta / 8$; and one product of many steps is even."""
    noise = Ordinal(DiscreteSchedule([0.004, 0.02, 0.9]), 101)
    for index, rate in enumerate((0.004, 0.02)):
        matrix = np.asarray(noise.matrix(jnp.asarray(index)))
        assert np.allclose(matrix, matrix.T, atol=1e-15) and np.allclose(matrix.sum(axis=0), 1)
        variance = np.sum(matrix[50] * (np.arange(101) - 50.0) ** 2)
        assert np.isclose(variance, 100**2 * rate / 8, rtol=1e-6)
    long = Ordinal(ddpm_linear(200, 0.1, 0.9), 5)
    prior = frx.discrete.UniformCategorical((5,), 5)
    assert np.allclose(long.marginal(prior, 0.0, jnp.arange(5)), 0.2, atol=1e-6)


def test_states_are_draws_of_the_marginal(x64):
    """By even levels: counts to one in a thousand."""
    noise, steps = noises()["ordinal"]
    level, x1 = jnp.linspace(5e-4, 1 - 5e-4, 1000), jnp.full(1000, 2, jnp.int32)
    x = noise.interpolate(1 - 5 / 7, level, x1)
    assert np.max(np.abs(np.bincount(x, minlength=NUM) - 1000 * product(steps[:5])[2])) <= 1


@pytest.mark.accuracy
def test_tables_are_exact_in_single_precision():
    """At the times of all indices, whichever way they are made; and what one step changes, where little is left."""
    table = ddpm_cosine(1000)
    schedule, index = TabulatedMasking(table), jnp.arange(1000)
    for times in (table.time(index), jnp.linspace(0, 1, 1001)[::-1][1:]):
        np.testing.assert_array_equal(schedule.alpha(times), table.alpha_bar)
    alpha_bar = np.cumprod(1 - np.asarray(table.rates))
    np.testing.assert_allclose(schedule.mask_probability(table.time(index)), 1 - alpha_bar, rtol=1e-6)
    assert schedule.alpha(1.0) == 1 and schedule.mask_probability(1.0) == 0
    chain = D3PM(table, frx.discrete.Categorical((2,), [0.3, 0.7]))
    rows = jax.vmap(lambda i: chain.transition(i, jnp.asarray([0, 1])))(index)
    np.testing.assert_allclose(rows[:, 0, 1], 0.7 * np.asarray(table.rates), rtol=2e-2)
    np.testing.assert_allclose(rows[500:, 0, 1], 0.7 * np.asarray(table.rates)[500:], rtol=2e-4)


@pytest.mark.accuracy
def test_one_site_is_exact_and_the_published_step_is_biased(x64):
    """With the exact law of the data: any steps, any noise. The published steps are exact for masks alone."""
    even = Ordinal(ddpm_linear(40, 0.3, 0.9), NUM)
    paths = {"ordinal": (even, "uniform"), "matrices": (Transitions(np.full((3, NUM, NUM), 1 / NUM)), "uniform")}
    strong = TabulatedMasking(DiscreteSchedule(np.full(40, 0.5)))
    paths |= {name: (strong, name) for name in PRIORS}
    for name, (path, prior) in paths.items():
        model = frx.discrete.oracle.Joint(LAW).model(path, prior=PRIORS[prior]((1,)))
        for grid in (1, 5, 40):
            assert np.allclose(exact_law(model, grid)[:NUM], LAW, atol=1e-9), (name, grid)
        published = exact_law(model, 40, frx.discrete.Ancestral(reverse=AveragedJoint()))[:NUM]
        bias = np.abs(published - LAW).sum()
        assert bias < 1e-9 if name == "masked" else bias > 5e-3 or name == "matrices", (name, bias)


def refined(name, steps):
    """Noise of one rate in time, in so many steps."""
    if name == "matrices":
        generator = RANDOM_RATES - np.diag(RANDOM_RATES.sum(axis=1))
        return Transitions(np.broadcast_to(expm(14 / steps * generator), (steps, NUM, NUM)))
    return TabulatedMasking(DiscreteSchedule(np.full(steps, -np.expm1(-14 / steps))))


RANDOM_RATES = RANDOM.uniform(0.2, 0.5, size=(NUM, NUM))
RANDOM_RATES = RANDOM_RATES + RANDOM_RATES.T


@pytest.mark.accuracy
@pytest.mark.parametrize("name", ["uniform", "masked", "matrices"])
def test_two_sites_are_of_first_order(name, x64):
    prior = PRIORS["masked" if name == "masked" else "uniform"]((2,))
    errors = []
    for steps in (128, 256, 512):
        model = frx.discrete.oracle.Joint(PAIRS).model(refined(name, steps), prior=prior)
        errors.append(np.abs(exact_law(model, steps)[:NUM, :NUM] - PAIRS).sum())
    assert np.allclose(np.log2(np.divide(errors[:-1], errors[1:])), 1, atol=0.15), errors


@pytest.mark.accuracy
def test_draws_have_the_law_by_sums(x64):
    """Ordinal noise through `sample`: chi-square at 1e5 draws."""
    model = frx.discrete.oracle.Joint(PAIRS).model(
        Ordinal(ddpm_linear(12, 0.3, 0.95), NUM), prior=PRIORS["uniform"]((2,))
    )
    x = np.asarray(frx.sample(model, jax.random.key(1), 100_000, grid=12).x)
    counts = np.bincount(np.ravel_multi_index(x.T, (NUM, NUM)), minlength=NUM**2)
    law = exact_law(model, 12).ravel()
    assert stats.chisquare(counts, 1e5 * law / law.sum()).pvalue > 1e-3


@pytest.mark.accuracy
@pytest.mark.parametrize("name", ["uniform", "ordinal"])
def test_steps_are_those_of_sample(name, key, x64):
    noise, _ = noises()[name]
    prior = PRIORS["uniform"]((2,))
    path = TabulatedMasking(noise) if name == "uniform" else noise
    model = frx.discrete.oracle.Joint(PAIRS).model(path, prior=prior)
    moves = frx.discrete.Ancestral(temperature=0.7)
    want = frx.sample(model, key, 6, grid=7, dynamics=moves).x
    chain = D3PM(noise, prior, last_index=1)
    source, mover = jax.vmap(lambda i: jax.random.split(jax.random.fold_in(key, i)), out_axes=1)(jnp.arange(6))
    x = jax.vmap(prior.draw)(source)

    @jax.jit
    def step(x, index):
        def one(x, key):
            logits = model.log_probabilities(chain.time(index), x)
            return chain.step(logits, index, x, key=jax.random.fold_in(key, 7 - index), temperature=0.7)

        return jax.vmap(one)(x, mover)

    for index in range(7, 0, -1):
        x = step(x, index)
    np.testing.assert_array_equal(x, want)


def bound(chain, model, x1):
    """The bound of one event, by sums over the states of every index; (*shape, K) of one site stands for the others."""
    length = len(x1)
    states = jnp.asarray(np.indices((NUM,) * length).reshape(length, -1).T)

    def at(index):
        def one(x):
            logits = model.log_probabilities(chain.time(index), x)
            chance = jnp.prod(chain.marginal(index, x1)[jnp.arange(length), x])
            return chance * jnp.sum(chain.variational(logits, index, x, x1))

        return jnp.sum(jax.vmap(one)(states))

    terms = jax.lax.map(at, jnp.arange(chain.num_steps))
    return jnp.sum(terms) + jnp.sum(chain.prior_term(x1))


@pytest.mark.accuracy
@pytest.mark.parametrize("name", ["uniform", "ordinal", "array"])
def test_the_bound_is_exact(name, x64):
    """One site: its mean is the entropy and what the last state tells of the data. Two: it bounds the chain's law."""
    noise, steps = noises()[name]
    path = TabulatedMasking(noise) if name == "uniform" else noise

    def of(oracle, shape):
        prior = PRIORS["uniform"](shape)
        return D3PM(noise, prior), oracle.model(path, prior=prior)

    chain, model = of(frx.discrete.oracle.Joint(LAW), (1,))
    values = jax.jit(jax.vmap(lambda x1: bound(chain, model, x1)))(jnp.arange(NUM)[:, None])
    last = LAW @ product(steps)
    want = stats.entropy(LAW) + stats.entropy(last, np.full(NUM, 1 / NUM))
    assert np.isclose(LAW @ np.asarray(values), want, rtol=1e-10)

    chain, model = of(frx.discrete.oracle.Joint(PAIRS), (2,))
    every = jnp.asarray(np.indices((NUM, NUM)).reshape(2, -1).T)
    values = jax.jit(jax.vmap(lambda x1: bound(chain, model, x1)))(every)
    assert np.all(np.asarray(values) >= -np.log(exact_law(model, 7).ravel()))
    mean = PAIRS.ravel() @ np.asarray(values)
    assert stats.entropy(PAIRS.ravel()) < mean < stats.entropy(PAIRS.ravel()) + 1.0


class Table(frx.model.AbstractNetwork):
    """Logits of every index and class of one site."""

    logits: jax.Array

    def __call__(self, t, x, condition=None, *, key=None):
        index = jnp.round(t * self.logits.shape[0]).astype(jnp.int32)
        return self.logits[index, x]


@pytest.mark.accuracy
def test_hybrid_is_the_loss_of_the_chain(x64):
    """At every index; sites that are masked count in neither term, and have no gradient."""
    noise, _ = noises()["ordinal"]
    prior = PRIORS["uniform"]((3,))
    chain = D3PM(noise, prior, reverse=AveragedJoint())
    network = Table(jnp.asarray(RANDOM.normal(size=(7, NUM, NUM))))
    model = frx.CategoricalModel(network, noise, prior=prior)
    loss = Hybrid(7, 0.3, reverse=AveragedJoint(), mask=lambda condition: condition)
    x1, level, mask = jnp.asarray([3, 0, 1]), jnp.asarray([0.3, 0.9, 0.1]), jnp.asarray([1, 0, 1])

    @jax.jit
    def both(index):
        t = chain.time(index)
        x = noise.interpolate(t, level, x1)
        logits = network(t, x)
        want, gradient = jax.value_and_grad(chain.loss)(logits, index, x, x1, scale=0.3, mask=mask)
        parts = chain.loss(logits, index, x, x1, mask=mask), chain.variational(logits, index, x, x1)
        return loss(model, t, level, x1, mask), want, gradient, parts

    for index in range(7):
        got, want, gradient, (cross_entropy, divergence) = both(index)
        assert np.isclose(got, want, rtol=1e-12)
        assert np.isclose(got, cross_entropy + 0.3 * np.mean(divergence[mask > 0]), rtol=1e-12)
        assert np.all(np.asarray(gradient)[1] == 0) and np.all(np.any(np.asarray(gradient)[::2], axis=1))
    assert loss(model, 0.0, level, x1, 0 * mask) == 0


def test_hybrid_drops_conditions_and_keeps_the_mask_in_them():
    noise, prior = TabulatedMasking(RATES), PRIORS["uniform"]((3,))
    model = frx.CategoricalModel(
        lambda t, x, given: jnp.outer(given, jnp.arange(NUM, dtype=jnp.float32)), noise, prior=prior, dtype=jnp.float32
    )
    x1, level, mask = jnp.asarray([3, 0, 1]), jnp.asarray([0.3, 0.9, 0.1]), jnp.asarray([1.0, 0.0, 1.0])
    state, key = ((x1, level), x1, mask), jax.random.key(0)
    plain, dropping = (
        Hybrid(7, mask=lambda given: given, condition_dropout=dropout)
        for dropout in (None, frx.loss.ConditionDropout(1.0))
    )
    # Logits that are zero where the mask is dropped, of the same two sites.
    flat = frx.CategoricalModel(lambda t, x, given: jnp.zeros((3, NUM)), noise, prior=prior, dtype=jnp.float32)
    t = jnp.asarray(2 / 7)

    @jax.jit
    def values():
        with_key = dropping(model, t, *state, key=key), plain(model, t, *state, key=key)
        return *with_key, dropping(model, t, *state), plain(flat, t, *state)

    dropped, kept, no_key, of_flat = values()
    assert np.isclose(dropped, of_flat, rtol=1e-6)
    assert no_key == kept != of_flat


def test_the_steps_of_a_chain_are_drawn_equally_often():
    times = np.asarray(frx.times.Stepped(5)(jax.random.key(0), 1000, 0.0, 1.0, jnp.float32))
    assert np.all(np.bincount(np.round(5 * times).astype(int), minlength=5) == 200) and times.max() < 1


def test_the_gradient_of_masks_has_no_nan():
    """Where tokens are known, and where logits are far apart."""
    prior = PRIORS["masked"]((2,))
    model = frx.CategoricalModel(Table(jnp.zeros((7, NUM + 1, NUM + 1))), TabulatedMasking(RATES), prior=prior)
    x1, loss = jnp.asarray([1, 2], jnp.int32), Hybrid(7, 1.0)

    @jax.jit
    @jax.grad
    def gradient_at(logits):
        network = Table(jnp.broadcast_to(logits, (7, NUM + 1, NUM + 1)))
        seen = frx.CategoricalModel(network, model.interpolant, prior=prior)
        x0 = jnp.full(2, NUM, jnp.int32), jnp.asarray([0.01, 0.999], jnp.float32)
        return loss(seen, 0.0, x0, x1) + loss(seen, 6 / 7, x0, x1)

    with jax.debug_nans(True):
        for size in (0.0, 60.0, 300.0):
            gradient = gradient_at(jnp.asarray([size, *[0.0] * NUM]))
            assert np.all(np.isfinite(gradient)) and np.any(np.asarray(gradient) != 0), size


@pytest.mark.accuracy
def test_fit_by_the_bound(x64):
    """The published step, biased with the exact law of the data, learns to be right; matrices stay as they are."""
    noise = Ordinal(ddpm_linear(3, 0.5, 0.9), NUM)
    data = np.repeat(np.arange(NUM, dtype=np.int32), np.round(400 * LAW).astype(int))[:, None]
    law = np.bincount(data[:, 0]) / len(data)
    model = frx.CategoricalModel(Table(jnp.zeros((3, NUM, NUM))), noise, prior=PRIORS["uniform"]((1,)))
    for reverse, room in ((frx.discrete.AveragedPosterior(), 0.03), (AveragedJoint(), 0.03)):
        result = frx.fit(
            model,
            data,
            jax.random.key(1),
            loss=Hybrid(3, 100.0, reverse=reverse),
            optimizer=optax.adamw(0.05, weight_decay=1e-4),
            num_steps=500,
            batch_size=400,
            progress=False,
        )
        np.testing.assert_array_equal(result.model.interpolant.products, noise.products)
        start = np.full(NUM, 1 / NUM)
        drawn = exact_law(result.model, 3, frx.discrete.Ancestral(reverse=reverse))
        off = np.abs(drawn - law).sum()
        assert off < room + np.abs(law @ product([noise.matrix(jnp.asarray(i)) for i in range(3)]) - start).sum()
