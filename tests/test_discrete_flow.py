"""Jumps along mixture paths: rates against Kolmogorov's equation, and the laws of their moves by sums over states."""

from math import comb

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import flowrax as frx
from flowrax import discrete
from flowrax.discrete.base import SamplerStep
from states import LINEAR, PRIORS, SCHEDULES, TABLE, exact, falls_at_order, law_after, marginal, matrices, states_of


@eqx.filter_jit
def conditional_rates(model, t, x1, stochasticities):
    """The law of a site given its datum and its derivative, and the rates from every class at each stochasticity."""
    k = model.prior.num_classes
    flow = jax.jvp(lambda t: model.interpolant.marginal(model.prior, t, x1)[0], (t,), (jnp.ones_like(t),))
    p1 = jax.nn.one_hot(x1, k, dtype=jnp.float64)
    rates = jax.vmap(lambda eta: discrete.jump_rates(model, t, jnp.arange(k), p1, eta))(stochasticities)
    return flow, rates


@eqx.filter_jit
def joint_rates(model, t, stochasticities):
    """The same over all states of two sites, under the model's own posterior."""
    states = states_of(model)
    flow = jax.jvp(lambda t: marginal(model, t), (t,), (jnp.ones_like(t),))
    p1 = jax.vmap(lambda x: jnp.exp(model.log_probabilities(t, x)))(states)
    rows = jax.vmap(lambda eta: jax.vmap(lambda x, p1: discrete.jump_rates(model, t, x, p1, eta))(states, p1))
    return flow, rows(stochasticities)


def no_network(t, x, condition):
    return None


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_jumps_given_the_datum_make_its_path_and_what_is_added_is_in_detailed_balance(schedule, x64):
    """With random priors: the forward equation of q_t(. | x1), and the flows that stochasticity adds are symmetric."""
    rng, k = np.random.default_rng(3), 5
    for trial in range(4):
        pi = rng.dirichlet(np.ones(k))
        prior = frx.discrete.Categorical((k,), pi)
        model = frx.CategoricalModel(no_network, SCHEDULES[schedule], prior=prior, dtype=jnp.float64)
        t, x1 = jnp.asarray(0.15 + 0.2 * trial), jnp.full(k, trial)

        (here, rate), (plain, more) = conditional_rates(model, t, x1, jnp.asarray([0.0, 1.7]))
        here, plain, more = np.asarray(here), np.asarray(plain), np.asarray(more)
        flow = here[:, None] * plain
        np.testing.assert_allclose(flow.sum(0) - flow.sum(1), rate, atol=1e-13)
        added = here[:, None] * (more - plain)
        assert added.max() > 0.01
        np.testing.assert_allclose(added, added.T, atol=1e-14)


@pytest.mark.accuracy
@pytest.mark.parametrize("prior", PRIORS)
def test_the_rates_of_an_exact_model_carry_the_joint_law(prior, x64):
    """Kolmogorov's forward equation over all states of two sites, whatever the stochasticity."""
    for schedule in SCHEDULES.values():
        model, t = exact(prior, schedule), jnp.asarray(0.37)
        states = np.asarray(states_of(model))
        (p, rate), each = joint_rates(model, t, jnp.asarray([0.0, 2.5]))
        one_apart = (states[:, None] != states[None]).sum(-1) == 1
        for rows in np.asarray(each):
            # The site that differs has the rate of its jump; the others jump to where they are at the rate zero.
            rates = np.where(one_apart, rows[:, np.arange(2), states].sum(-1), 0)
            flow = np.asarray(p)[:, None] * rates
            np.testing.assert_allclose(flow.sum(0) - flow.sum(1), rate, atol=1e-12)


MOVES = {
    "euler": discrete.Euler(),
    "euler, stochastic": discrete.Euler(stochasticity=1.0),
    "tau-leaping": discrete.TauLeaping(),
    "tau-leaping, stochastic": discrete.TauLeaping(stochasticity=1.0),
    "jump": discrete.MixtureJump(),
    "corrected": discrete.CorrectorSampler(discrete.MixtureJump(), 2, stochasticity=3.0),
}


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("name", MOVES)
def test_moves_converge_to_the_joint_law_at_first_order(name, prior, x64):
    """And end with nothing but data, at 1 itself."""
    model = exact(prior)
    laws = [law_after(model, MOVES[name], n) for n in (32, 64, 128)]
    for law in laws:
        assert abs(law.sum() - 1) < 1e-12 and abs(law[:3, :3].sum() - 1) < 1e-12
    assert falls_at_order([np.abs(law[:3, :3] - TABLE).sum() for law in laws], 1)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_one_masked_site_jumps_exactly_in_any_steps(schedule, x64):
    law = law_after(exact("masked", SCHEDULES[schedule], TABLE[0]), discrete.MixtureJump(), [0.0, 0.1, 0.7, 1.0])
    np.testing.assert_allclose(law[:3], TABLE[0] / TABLE[0].sum(), atol=1e-15)


@pytest.mark.parametrize("prior", PRIORS)
def test_a_correction_keeps_the_law_of_the_time(prior, x64):
    """Of one site whatever its length; of two up to the second order in it."""
    moves = discrete.CorrectorSampler(discrete.Euler(), stochasticity=4.0)
    for table in (TABLE[0], TABLE):
        model = exact(prior, table=table)
        law, errors = np.asarray(eqx.filter_jit(marginal)(model, jnp.asarray(0.6), table / table.sum())), []
        for length in (0.04, 0.02, 0.01):
            _, chances = matrices(model, moves, jnp.asarray(0.6 - length), jnp.asarray(0.6))
            errors.append(np.abs(law @ np.asarray(chances) - law).sum())
        assert max(errors) < 1e-15 if table.ndim == 1 else falls_at_order(errors, 2)


def purity_law(model, moves, grid):
    """The law of the end, by sums over how many masks are lifted, what is drawn there and what is masked again."""
    times, mask = moves.times(model, grid), model.prior.mask
    law = {(mask, mask): 1.0}

    @jax.jit
    def of_steps(starts, ends):
        def chances(start, end):
            return moves.chances(model, SamplerStep(jnp.asarray(0), 1, start, end))

        rows = jax.vmap(lambda t: jax.vmap(lambda x: model.log_probabilities(t, x))(states_of(model)))(starts)
        return jax.vmap(chances)(starts, ends), rows

    (lifts, backs), rows = of_steps(times[:-1], times[1:])
    rows = np.exp(np.asarray(rows, np.float64)).reshape(len(rows), 4, 4, 2, 4)
    for lift, back, row in zip(np.asarray(lifts, float), np.asarray(backs, float), rows, strict=True):
        new = {}
        for x, mass in law.items():
            p = row[x]
            holes = sorted((i for i in range(2) if x[i] == mask), key=lambda i, p=p: -p[i].max())
            for number in range(len(holes) + 1):
                counted = mass * comb(len(holes), number) * lift**number * (1 - lift) ** (len(holes) - number)
                rows = [np.eye(4)[x[i]] * (1 - back) + np.eye(4)[mask] * back for i in range(2)]
                for i in holes:
                    rows[i] = p[i] if i in holes[:number] else np.eye(4)[mask]
                for y in np.ndindex(4, 4):
                    new[y] = new.get(y, 0) + counted * rows[0][y[0]] * rows[1][y[1]]
        law = {y: mass for y, mass in new.items() if mass > 0}
    return np.array([law.get(y, 0.0) for y in np.ndindex(4, 4)]).reshape(4, 4)


@pytest.mark.accuracy
def test_purity_converges_to_the_joint_law(x64):
    """The order in which masks are lifted, which what is seen decides, leaves the law as it is."""
    laws = [purity_law(exact("masked"), discrete.Purity(), n)[:3, :3] for n in (8, 16, 32)]
    assert falls_at_order([np.abs(law - TABLE).sum() for law in laws], 1)


@pytest.mark.accuracy
@pytest.mark.parametrize("name", ["purity", "corrected"])
def test_draws_have_the_law_of_the_sums(name):
    """1e5 draws in single precision, of moves with randomness of several kinds."""
    moves = {
        "purity": discrete.Purity(stochasticity=3.0),
        "corrected": discrete.CorrectorSampler(discrete.TauLeaping(stochasticity=1.0), 2, stochasticity=3.0),
    }[name]
    model = exact("masked")
    law = (purity_law if name == "purity" else law_after)(model, moves, 8)
    x = np.asarray(frx.sample(model, jax.random.key(3), 100_000, dynamics=moves, grid=8).x)
    counts = np.bincount(np.ravel_multi_index(x.T, (4, 4)), minlength=16).reshape(4, 4)[:3, :3]
    # No mask is left, though masks came back at every step but the last.
    assert counts.sum() == 100_000 and abs(law[:3, :3].sum() - 1) < 1e-5
    chances = np.float64(law[:3, :3].ravel())
    assert stats.chisquare(counts.ravel(), 1e5 * chances / chances.sum()).pvalue > 1e-3


@pytest.mark.accuracy
@pytest.mark.parametrize("moves", [discrete.Purity(10.0), discrete.Euler(10.0), discrete.TauLeaping(10.0)], ids=repr)
def test_no_mask_is_left_however_stochastic(moves):
    """A step of 0.3 with the rate 10 would put every token back."""
    x = frx.sample(exact("masked"), jax.random.key(0), 200, dynamics=moves, grid=jnp.array([0.0, 0.7, 1.0])).x
    assert x.max() < 3


@pytest.mark.accuracy
@pytest.mark.parametrize("prior", ["masked", "custom"])
def test_sites_of_any_rank_and_keys(prior):
    """Of four sites in a square each has the probabilities that it has in a row; draws are functions of the key."""

    def network(t, x, condition):
        phases = jnp.arange(4.0 if prior == "masked" else 3.0)
        return jnp.sin(2 * x.astype(phases.dtype)[..., None] + phases.reshape((1,) * x.ndim + (-1,)))

    step = SamplerStep(jnp.asarray(0), 1, jnp.asarray(0.3), jnp.asarray(0.4))
    x = jnp.array([3, 0, 2, 1] if prior == "masked" else [2, 0, 1, 1], jnp.int32)
    square, row = (
        frx.CategoricalModel(network, LINEAR, prior=PRIORS[prior](shape), dtype=jnp.float32) for shape in ((2, 2), (4,))
    )
    moves = discrete.Euler(stochasticity=2.0, temperature=0.7)
    rows = moves.probabilities(square, step, x.reshape(2, 2)), moves.probabilities(row, step, x)
    np.testing.assert_array_equal(rows[0].reshape(4, -1), rows[1])
    pairs = (
        square.interpolant.noise(jax.random.key(1), x.reshape(2, 2)),
        square.interpolant.noise(jax.random.key(2), x.reshape(2, 2)),
    )
    assert not np.array_equal(pairs[0][1], pairs[1][1])
    for moves in (discrete.CorrectorSampler(discrete.Euler(1.0)), *[discrete.Purity(1.0)] * (prior == "masked")):
        draws = [frx.sample(square, jax.random.key(k), 64, dynamics=moves, grid=4).x for k in (0, 0, 1)]
        assert np.array_equal(draws[0], draws[1]) and not np.array_equal(draws[0], draws[2])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: discrete.Purity().times(exact("uniform"), 4), "Purity unmasks sites, but UniformCategorical"),
        (lambda: discrete.Euler(stochasticity=-1.0), "stochasticity"),
        (lambda: discrete.TauLeaping(temperature=-1.0), "temperature"),
        (lambda: discrete.CorrectorSampler(discrete.Euler(), 0), "num_corrections must be at least one"),
        (lambda: frx.discrete.ClassifierFreeCategorical(exact("masked"), 2.0), "needs null="),
        (
            lambda: frx.discrete.ClassifierFreeCategorical(exact("masked"), 2.0, other=exact("uniform")),
            "another path or prior",
        ),
        (
            lambda: frx.discrete.ClassifierFreeCategorical(exact("masked"), jnp.ones(3), other=exact("masked")),
            "it must be a scalar or have the shape of an event",
        ),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
