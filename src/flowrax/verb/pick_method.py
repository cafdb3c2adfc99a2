"""Which method `posterior` uses if it is given none."""

import math
from typing import Any

from .._base.checks import is_traced
from .._base.condition import Batched
from ..guidance import AbstractGuidance, PiGDM
from ..inverse import AbstractPosteriorMethod, Conjugate, TemperedSMC
from ..inverse.conjugate import MOST_ELEMENTS, is_affine
from ..model.base import AbstractContinuousModel
from ..observation import LinearGaussian, Observation
from .noise_space import NOISE_OPTIONS, NoiseFlow, given_beside, has_gaussian_source, noise_flow, noise_problem

# Tempered SMC solves the flow some hundred times for each draw, which larger events seldom allow.
_LARGE = 4096


def pick_method(
    model: AbstractContinuousModel, observation: Observation, options: dict[str, Any], num_samples: int
) -> tuple[AbstractPosteriorMethod | AbstractGuidance, str, NoiseFlow | None]:
    """A method for the problem, the reason for it, and the flow of the model if it was made on the way.

    **Raises:** `ValueError` if only guidance is possible but the measurement is not linear and Gaussian.
    """
    linear, size = isinstance(observation, LinearGaussian), math.prod(model.shape)
    given = given_beside(options, NOISE_OPTIONS)
    hindrance = ""
    if given:
        hindrance = f"{', '.join(given)} {'were' if len(given) > 1 else 'was'} given, which only guidance takes"
    elif isinstance(options["condition"], Batched):
        hindrance = "each draw has its own condition, which only guidance takes"
    elif not has_gaussian_source(model, options["condition"]):
        hindrance = "the flow does not start from a Gaussian, as exact methods need"
    elif linear and size > _LARGE:
        hindrance = f"events have {size} elements, for which exact methods are dear"
    if hindrance:
        if not linear:
            raise ValueError(
                f"posterior: {hindrance}, and guidance needs a LinearGaussian observation, not a "
                f"{type(observation).__name__}."
            )
        return PiGDM(), f"PiGDM, which is approximate: {hindrance}", None
    flow = noise_flow(model, options)
    if linear and size <= MOST_ELEMENTS and not is_traced(model, options["condition"]):
        observation.check_event(model.shape)
        if bool(is_affine(noise_problem(flow, observation))):
            return Conjugate(), "Conjugate: the prior is Gaussian and the measurement linear with Gaussian noise", flow
    return TemperedSMC(), "TemperedSMC: it is exact for any prior and likelihood, up to Monte Carlo error", flow
