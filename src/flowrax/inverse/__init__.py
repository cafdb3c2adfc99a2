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
from .kernels import (
    HMC as HMC,
    MALA as MALA,
    NUTS as NUTS,
    AbstractKernel as AbstractKernel,
    Chain as Chain,
    EllipticalSlice as EllipticalSlice,
    Target as Target,
)
from .noise_space_mcmc import NoiseSpaceMCMC as NoiseSpaceMCMC
from .tempered_smc import TemperedSMC as TemperedSMC
from .twisted_smc import TwistedSMC as TwistedSMC
