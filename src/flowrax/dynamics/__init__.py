"""Dynamics: the ODEs and SDEs that a model defines, as diffrax terms."""

from . import chain as chain
from .base import AbstractDynamics as AbstractDynamics, AbstractPathDynamics as AbstractPathDynamics
from .churn import Churn as Churn
from .diffusion import (
    SBDM as SBDM,
    AbstractDiffusion as AbstractDiffusion,
    Capped as Capped,
    Constant as Constant,
    CosineDecay as CosineDecay,
    Cotangent as Cotangent,
    Custom as Custom,
    InversePower as InversePower,
    LinearDecay as LinearDecay,
    LinearGrowth as LinearGrowth,
    Odds as Odds,
    Parabola as Parabola,
    QuadraticDecay as QuadraticDecay,
    RaisedSine as RaisedSine,
    Scaled as Scaled,
    Sigma as Sigma,
    SigmoidPower as SigmoidPower,
    SinePulse as SinePulse,
)
from .flow import ProbabilityFlow as ProbabilityFlow
from .jump import Jump as Jump
from .langevin import Langevin as Langevin, UnderdampedLangevin as UnderdampedLangevin
from .predictor_corrector import PredictorCorrector as PredictorCorrector
from .restart import Restart as Restart
from .reverse_sde import AbstractScoreSDE as AbstractScoreSDE, ReverseSDE as ReverseSDE
from .tempered import HybridSDE as HybridSDE, StochasticFlow as StochasticFlow, TemperedFlow as TemperedFlow
