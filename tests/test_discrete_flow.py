"""Jumps along mixture paths: rates against Kolmogorov's equation, and the laws of their moves by sums over states."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowrax as frx
from flowrax import discrete
from flowrax.abstract import Move

TABLE = np.random.default_rng(0).dirichlet(np.full(9, 4.0)).reshape(3, 3)
PI = [0.2, 0.5, 0.3]
PRIORS = {
    "masked": lambda shape: frx.prior.Masked.exclusive(shape, 3),
    "uniform": lambda shape: frx.prior.UniformCategorical(shape, 3),
    "custom": lambda shape: frx.prior.Categorical(shape, PI),
}
LINEAR = frx.schedule.LogLinearMasking(0.0)
SCHEDULES = {"linear": LINEAR, "cosine": frx.schedule.CosineMasking(0.0)}


def exact(prior, schedule=LINEAR, table=TABLE):
    return frx.oracle.Joint(table).model(schedule, prior=PRIORS[prior](np.shape(table)[:1] and (np.ndim(table),)))


def states_of(model):
    k, (length,) = model.prior.num_classes, model.shape
    return jnp.asarray(np.indices((k,) * length).reshape(length, -1).T)


def marginal(model, t, table=TABLE):
    """The law of the state at `t`, `(K^L,)`, by sums over data."""
    data = np.indices(table.shape).reshape(table.ndim, -1).T
    rows = jnp.stack([model.interpolant.marginal(model.prior, t, jnp.asarray(x)) for x in data])
    sites = jnp.arange(table.ndim)
    chances = jax.vmap(lambda x: jnp.prod(rows[:, sites, x], axis=1))(states_of(model))
    return chances @ jnp.asarray(table.ravel())


def product(rows, states):
    """A matrix of chances from state to state, of those of each site `(S, L, K)`."""
    return jnp.prod(rows[:, jnp.arange(states.shape[1]), states], axis=-1)


@eqx.filter_jit
def matrices(model, moves, start, end):
    """The chances of one step, and of a correction after it, between all states."""
    states, step = states_of(model), Move(jnp.asarray(0), 1, start, end)
    corrected = isinstance(moves, discrete.PredictorCorrector)
    kinds = [moves.predictor.probabilities, moves.correction] if corrected else [moves.probabilities]
    return [product(jax.vmap(lambda x, kind=kind: kind(model, step, x))(states), states) for kind in kinds]


def law_after(model, moves, grid):
    """The law of the end of a chain, by sums over all states: no draws."""
    times, states = moves.times(model, grid), states_of(model)
    law = np.asarray(jnp.prod(model.prior.probabilities[states], axis=1))
    for start, end in zip(times[:-1], times[1:], strict=True):
        first, *corrections = matrices(model, moves, start, end)
        for chances in [first, *corrections * getattr(moves, "num_corrections", 0)]:
            # The oracle has no posterior of a state that cannot be.
            law = law @ np.where(law[:, None] > 0, chances, 0)
    return law.reshape((model.prior.num_classes,) * model.shape[0])


def falls_at_order(errors, order):
    return np.allclose(np.log2(np.divide(errors[:-1], errors[1:])), order, atol=0.15)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_jumps_given_the_datum_make_its_path_and_what_is_added_is_in_detailed_balance(schedule, x64):
    """With random priors: the forward equation of q_t(. | x1), and the flows that stochasticity adds are symmetric."""
    rng, k = np.random.default_rng(3), 5
    for trial in range(4):
        pi = rng.dirichlet(np.ones(k))
        prior = frx.prior.Categorical((k,), pi)
        model = frx.CategoricalModel(lambda t, x, c: None, SCHEDULES[schedule], prior=prior, dtype=jnp.float64)
        t, x1 = jnp.asarray(0.15 + 0.2 * trial), jnp.full(k, trial)

        def q(t, model=model, x1=x1):
            return model.interpolant.marginal(model.prior, t, x1)[0]

        here, rate = jax.jvp(q, (t,), (jnp.ones_like(t),))
        p1 = jax.nn.one_hot(x1, k, dtype=jnp.float64)
        plain, more = (np.asarray(discrete.jump_rates(model, t, jnp.arange(k), p1, eta)) for eta in (0.0, 1.7))
        flow = np.asarray(here)[:, None] * plain
        np.testing.assert_allclose(flow.sum(0) - flow.sum(1), rate, atol=1e-13)
        added = np.asarray(here)[:, None] * (more - plain)
        assert added.max() > 0.01
        np.testing.assert_allclose(added, added.T, atol=1e-14)


@pytest.mark.parametrize("prior", PRIORS)
def test_the_rates_of_an_exact_model_carry_the_joint_law(prior, x64):
    """Kolmogorov's forward equation over all states of two sites, whatever the stochasticity."""
    for schedule in SCHEDULES.values():
        model, t = exact(prior, schedule), jnp.asarray(0.37)
        states = states_of(model)
        p, rate = jax.jvp(lambda t, model=model: marginal(model, t), (t,), (jnp.ones_like(t),))
        p1 = jax.vmap(lambda x, t=t, model=model: jnp.exp(model.log_probabilities(t, x)))(states)
        one_apart = np.asarray((states[:, None] != states[None]).sum(-1) == 1)
        for eta in (0.0, 2.5):
            rows = jax.vmap(lambda x, p1, m=model, t=t, eta=eta: discrete.jump_rates(m, t, x, p1, eta))(states, p1)
            # The site that differs has the rate of its jump; the others jump to where they are at the rate zero.
            rates = np.where(one_apart, np.asarray(rows[:, jnp.arange(2), states].sum(-1)), 0)
            flow = np.asarray(p)[:, None] * rates
            np.testing.assert_allclose(flow.sum(0) - flow.sum(1), rate, atol=1e-12)


MOVES = {
    "euler": discrete.Euler(),
    "euler, stochastic": discrete.Euler(stochasticity=1.0),
    "tau-leaping": discrete.TauLeaping(),
    "tau-leaping, stochastic": discrete.TauLeaping(stochasticity=1.0),
    "jump": discrete.MixtureJump(),
    "corrected": discrete.PredictorCorrector(discrete.MixtureJump(), 2, stochasticity=3.0),
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
