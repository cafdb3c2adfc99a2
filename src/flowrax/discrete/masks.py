"""What samplers of masks have in common."""

import math
from typing import Any

import jax.numpy as jnp

from .._typing import Array, Tokens
from ..abstract import AbstractCategoricalModel, AbstractMoves


def mask_of(moves: AbstractMoves, model: AbstractCategoricalModel) -> int:
    """The class of the mask; raises `ValueError` under a prior without one."""
    mask = model.prior.mask
    if mask is None:
        raise ValueError(
            f"{type(moves).__name__} lifts masks, and {type(model.prior).__name__} has none; take prior.Masked, or "
            "discrete.Ancestral for noise of other kinds."
        )
    return mask


def number_of_steps(moves: AbstractMoves, grid: Any, default: int) -> int:
    """The steps of a sampler that counts masks; raises `ValueError` where `grid` is none of their number."""
    if grid is None:
        return default
    if not isinstance(grid, int) or grid < 1:
        raise ValueError(f"{type(moves).__name__} counts masks: grid must be a number of steps; got {grid!r}.")
    return grid


def times_of_shares(model: AbstractCategoricalModel, shares: Array) -> Array:
    """The times at which those shares of the sites are known, within the model's interval."""
    times = model.interpolant.schedule.time_at(shares)
    return jnp.clip(times, model.t_min, model.t_max).astype(model.dtype)


def time_of(model: AbstractCategoricalModel, masked: Array) -> Array:
    """The time at which as many sites are known as are not masked."""
    known = jnp.sum(~masked, dtype=jnp.int32) / masked.size
    return times_of_shares(model, known.astype(model.dtype))


def size_of(model: AbstractCategoricalModel) -> int:
    """How many sites an event has."""
    return math.prod(model.shape)


def highest(score: Array, number: Array) -> Array:
    """Where the `number` highest scores are, exactly so many; of equal ones the first. NaN is above all.

    **Arguments:**

    - `score`: any shape.
    - `number`: from 0 to the number of scores.

    **Returns:** true there, of the shape of `score`.
    """
    flat = jnp.where(jnp.isnan(score), jnp.inf, score).ravel()
    last = jnp.sort(flat)[flat.size - jnp.maximum(number, 1)]
    above, equal = flat > last, flat == last
    left = number - jnp.sum(above, dtype=jnp.int32)
    return (above | (equal & (jnp.cumsum(equal, dtype=jnp.int32) <= left))).reshape(score.shape) & (number > 0)


def given_of(first: Tokens | None, mask: int, shape: tuple[int, ...]) -> Array:
    """Where the event before the first step was known."""
    return jnp.zeros(shape, bool) if first is None else first != mask
