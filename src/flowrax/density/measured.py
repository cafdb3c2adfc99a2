r"""Posteriors of a standardised model, for measurements of events in the units of the data, $x = m + s z$.

A linear measurement $y = A x + \varepsilon$ is one of $z$ with the operator $A \operatorname{diag}(s)$ and the values
$y - A m$. Any other is measured through $x(z)$.
"""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._base.checks import check_methods
from .._base.result import RESULTS, on_successful
from .._base.typing import Array, Condition, Event, KeyLike, Shape
from ..model.base import AbstractContinuousModel
from ..observation import LinearGaussian, Observation, num_rows
from ..verb import PosteriorSamples, posterior
from .standardise import Standardiser


class OfStandardised(eqx.Module):
    """A measurement of `x`, as one of the standardised `z`."""

    inner: Observation
    standard: Standardiser

    def log_likelihood(self, z: Event) -> Array:
        return self.inner.log_likelihood(self.standard.backward(z, 0))

    def check_event(self, shape: Shape) -> None:
        if hasattr(self.inner, "check_event"):
            self.inner.check_event(shape)


def standardised(observation: Observation, standard: Standardiser) -> Observation:
    """The measurement of the standardised event."""
    if not isinstance(observation, LinearGaussian):
        return OfStandardised(observation, standard)
    matrix = observation.operator
    offset = matrix @ standard.shift.reshape(-1).astype(matrix.dtype)
    offset = offset + matrix @ standard.rest.reshape(-1).astype(matrix.dtype)
    values = jax.tree.map(lambda y: y - jnp.broadcast_to(offset, y.shape).astype(y.dtype), observation.y)
    scaled = matrix * standard.scale.reshape(1, -1).astype(matrix.dtype)
    return LinearGaussian(scaled, values, observation.noise_std)


def posterior_of(
    model: AbstractContinuousModel,
    standard: Standardiser,
    observation: Observation,
    key: KeyLike,
    num_samples: int,
    *,
    condition: Condition,
    **options: Any,
) -> PosteriorSamples:
    """The posterior of a standardised model, in the units of the data."""
    check_methods("observation", observation, ("log_likelihood",))
    answer = posterior(model, standardised(observation, standard), key, num_samples, condition=condition, **options)

    def restored(result: RESULTS, z: Array) -> Array:
        return on_successful(lambda z: standard.backward(z, 1), result, z)

    one, residual = num_rows(observation) is None, answer.residual
    x = (restored if one else jax.vmap(restored))(answer.result, answer.x)
    if one and residual is None and hasattr(observation, "residual"):
        residual = on_successful(jax.vmap(observation.residual), answer.result, x)
    return dataclasses.replace(answer, x=x, residual=residual)
