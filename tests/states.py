"""Exact models of a few sites, and the laws of chains by sums over all states: no draws."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import flowrax as frx
from flowrax import discrete
from flowrax.discrete.base import SamplerStep

TABLE = np.random.default_rng(0).dirichlet(np.full(9, 4.0)).reshape(3, 3)
PI = [0.2, 0.5, 0.3]
PRIORS = {
    "masked": lambda shape: frx.discrete.Masked.exclusive(shape, 3),
    "uniform": lambda shape: frx.discrete.UniformCategorical(shape, 3),
    "custom": lambda shape: frx.discrete.Categorical(shape, PI),
}
LINEAR = frx.discrete.LogLinearMasking(0.0)
SCHEDULES = {"linear": LINEAR, "cosine": frx.discrete.CosineMasking(0.0)}


def exact(prior, schedule=LINEAR, table=TABLE):
    return frx.discrete.oracle.Joint(table).model(
        schedule, prior=PRIORS[prior](np.shape(table)[:1] and (np.ndim(table),))
    )


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
    states, step = states_of(model), SamplerStep(jnp.asarray(0), 1, start, end)
    corrected = isinstance(moves, discrete.CorrectorSampler)
    kinds = [moves.predictor.probabilities, moves.correction] if corrected else [moves.probabilities]
    return [product(jax.vmap(lambda x, kind=kind: kind(model, step, x))(states), states) for kind in kinds]


# The times of a chain take this many places, so that chains of any number of steps share their compilation.
MOST_STEPS = 128


@eqx.filter_jit
def _end_of(model, moves, times, count):
    def push(index, law):
        first, *corrections = matrices(model, moves, times[index], times[index + 1])
        for chances in [first, *corrections * getattr(moves, "num_corrections", 0)]:
            # The oracle has no posterior of a state that cannot be.
            law = law @ jnp.where(law[:, None] > 0, chances, 0)
        return law

    start = jnp.prod(model.prior.probabilities[states_of(model)], axis=1)
    return jax.lax.fori_loop(0, count, push, start)


def law_after(model, moves, grid):
    """The law of the end of a chain, by sums over all states: no draws."""
    times = moves.times(model, grid)
    count = len(times) - 1
    padded = np.concatenate([times, np.ones(MOST_STEPS - count, times.dtype)])
    law = _end_of(model, moves, jnp.asarray(padded), jnp.asarray(count))
    return np.asarray(law).reshape((model.prior.num_classes,) * model.shape[0])


def falls_at_order(errors, order):
    return np.allclose(np.log2(np.divide(errors[:-1], errors[1:])), order, atol=0.15)
