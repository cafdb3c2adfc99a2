"""Posterior methods, for any measurement with a likelihood."""

from .base import (
    AbstractModelMethod as AbstractModelMethod,
    AbstractNoiseMethod as AbstractNoiseMethod,
    AbstractPosteriorMethod as AbstractPosteriorMethod,
    ModelProblem as ModelProblem,
    NoiseProblem as NoiseProblem,
    PosteriorDraws as PosteriorDraws,
)
from .conjugate import Conjugate as Conjugate
from .importance_sampling import ImportanceSampling as ImportanceSampling
from .tempered_smc import TemperedSMC as TemperedSMC
from .twisted_smc import TwistedSMC as TwistedSMC
