"""Dynamics: a model's terms for diffrax."""

from .diffusion import (
    SBDM as SBDM,
    AbstractDiffusion as AbstractDiffusion,
    Constant as Constant,
    CosineDecay as CosineDecay,
    LinearDecay as LinearDecay,
    Parabola as Parabola,
    QuadraticDecay as QuadraticDecay,
    Sigma as Sigma,
    SineBump as SineBump,
)
from .flow import ProbabilityFlow as ProbabilityFlow
from .langevin import Langevin as Langevin, UnderdampedLangevin as UnderdampedLangevin
from .noise import gaussian_prior as gaussian_prior, scaled_score as scaled_score, shaped as shaped
from .predictor_corrector import PredictorCorrector as PredictorCorrector
from .reverse_sde import ReverseSDE as ReverseSDE
from .semilinear import SemilinearTerm as SemilinearTerm
