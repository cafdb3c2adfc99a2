"""Posterior methods that draw from the exact posterior, for any measurement with a likelihood."""

from .base import (
    AbstractPosteriorMethod as AbstractPosteriorMethod,
    NoiseDraws as NoiseDraws,
    NoiseProblem as NoiseProblem,
)
from .tempered_smc import TemperedSMC as TemperedSMC
