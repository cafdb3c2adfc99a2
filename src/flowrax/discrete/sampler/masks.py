"""Helpers shared by the samplers of masked diffusion."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from ..._base.checks import check_count
from ..._base.typing import Array, Tokens
from ..base import AbstractCategoricalModel, AbstractSampler


def mask_of(sampler: AbstractSampler, model: AbstractCategoricalModel) -> int:
    """The class of the mask; raises `ValueError` if the prior has no mask."""
    mask = model.prior.mask
    if mask is None:
        raise ValueError(
            f"{type(sampler).__name__} unmasks sites, but {type(model.prior).__name__} has no mask; use "
            "discrete.Masked, or discrete.Ancestral for other kinds of noise."
        )
    return mask


def number_of_steps(sampler: AbstractSampler, grid: Any, default: int) -> int:
    """The steps of a sampler that counts masks; raises `ValueError` unless `grid` is None or a positive integer."""
    if grid is None:
        return default
    if np.ndim(grid):
        raise ValueError(f"{type(sampler).__name__} counts masks, so grid must be a number of steps; got {grid!r}.")
    return check_count("grid", grid)


def times_of_shares(model: AbstractCategoricalModel, shares: Array) -> Array:
    """The times at which the expected shares of unmasked sites are `shares`, clipped to the model's interval."""
    times = model.interpolant.schedule.time_at(shares)
    return jnp.clip(times, model.t_min, model.t_max).astype(model.dtype)


def time_of(model: AbstractCategoricalModel, masked: Array) -> Array:
    """The time at which the expected share of unmasked sites equals the share that is unmasked now."""
    known = jnp.sum(~masked, dtype=jnp.int32) / masked.size
    return times_of_shares(model, known.astype(model.dtype))


def size_of(model: AbstractCategoricalModel) -> int:
    """The number of sites of an event."""
    return math.prod(model.shape)


def highest(score: Array, number: Array) -> Array:
    """Marks exactly the `number` highest scores. Ties go to the first site, and NaN ranks above every number.

    **Arguments:**

    - `score`: any shape.
    - `number`: how many to mark, from 0 to the number of scores.

    **Returns:** booleans of the shape of `score`, true at the highest scores.
    """
    flat = jnp.where(jnp.isnan(score), jnp.inf, score).ravel()
    last = jnp.sort(flat)[flat.size - jnp.maximum(number, 1)]
    above, equal = flat > last, flat == last
    left = number - jnp.sum(above, dtype=jnp.int32)
    return (above | (equal & (jnp.cumsum(equal, dtype=jnp.int32) <= left))).reshape(score.shape) & (number > 0)


def given_of(first: Tokens | None, mask: int, shape: tuple[int, ...]) -> Array:
    """Marks the sites that were already unmasked before the first step; none if `first` is None."""
    return jnp.zeros(shape, bool) if first is None else first != mask
