"""Exact laws of chains of tokens, by sums over all states: no draws, so orders of convergence without noise."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import flowrax as frx


def all_states(model):
    """Every event of the model's classes, `(K**L, L)`, the last site first to change."""
    return jnp.asarray(np.indices((model.prior.num_classes,) * model.shape[0]).reshape(model.shape[0], -1).T)


def source_law(model):
    """The probabilities of all states under the prior, `(K**L,)`."""
    return jnp.prod(model.prior.probabilities[all_states(model)], axis=1)


def transition(model, moves, step, condition=None):
    """The probabilities of one step from every state (rows) to every other, `(K**L, K**L)`."""
    states = all_states(model)
    rows = jax.vmap(lambda x: moves.probabilities(model, step, x, condition))(states)
    return jnp.prod(rows[:, jnp.arange(states.shape[1]), states], axis=-1)


@eqx.filter_jit
def _end_of(model, moves, times, condition):
    count = len(times) - 1

    def push(law, xs):
        return law @ transition(model, moves, frx.discrete.base.SamplerStep(xs[0], count, *xs[1:]), condition), None

    return jax.lax.scan(push, source_law(model), (jnp.arange(count), times[:-1], times[1:]))[0]


def exact_law(model, grid, moves=None, condition=None):
    """The law of the end of a chain that `sample(model, ..., grid=grid, dynamics=moves)` draws, `(K,) * L`."""
    moves = frx.discrete.Ancestral() if moves is None else moves
    law = _end_of(model, moves, moves.times(model, grid), condition)
    return np.asarray(law).reshape((model.prior.num_classes,) * model.shape[0])
