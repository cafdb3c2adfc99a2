"""`posterior` by a method that moves events along the time of the model."""

from typing import Any

import jax
import jax.numpy as jnp

from .._base.condition import Batched, cast_condition
from .._base.result import NONFINITE, RESULTS, Stats
from .._base.typing import KeyArray
from ..inverse import AbstractModelMethod, ModelProblem
from ..model.base import AbstractContinuousModel
from ..observation import Observation
from .noise_space import given_beside, raise_unless_finished
from .posterior_samples import PosteriorSamples, answer_of
from .shared_condition import check_shared


def by_model(
    model: AbstractContinuousModel,
    observation: Observation,
    method: AbstractModelMethod,
    key: KeyArray,
    num_samples: int,
    options: dict[str, Any],
    *,
    throw: bool,
) -> PosteriorSamples:
    """The draws of a method that moves events along the time of the model."""
    name, condition = type(method).__name__, options["condition"]
    given = given_beside(options, ("condition",))
    if given:
        raise ValueError(f"{name} has steps of its own and takes no {', '.join(given)}; see its own arguments.")
    if isinstance(condition, Batched):
        raise ValueError(f"condition is Batched, but the draws of {name} share one condition; call posterior for each.")
    check_shared(model, condition, num_samples)
    if hasattr(observation, "check_event"):
        observation.check_event(model.shape)
    draws = method(ModelProblem(model, observation, cast_condition(condition, model.dtype, 1)), key, num_samples)
    draws = raise_unless_finished(name, draws) if throw else draws
    finite = jnp.all(jnp.isfinite(draws.x.reshape(num_samples, -1)), axis=1)
    result = jax.vmap(RESULTS.where, in_axes=(0, None, None))(finite, RESULTS.successful, NONFINITE)
    reached = jnp.broadcast_to(draws.finished, (num_samples,))
    result = jax.vmap(RESULTS.where, in_axes=(0, 0, None))(reached, result, RESULTS.max_steps_reached)
    evaluations = jnp.broadcast_to(draws.num_evaluations, (num_samples,))
    return answer_of(draws, observation, Stats(evaluations, jnp.zeros_like(evaluations), evaluations), result)
