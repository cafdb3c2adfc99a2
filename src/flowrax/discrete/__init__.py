"""Moves of tokens: how a categorical model goes from noise to data."""

from .ancestral import Ancestral as Ancestral
from .corrector import PredictorCorrector as PredictorCorrector
from .draw import draw as draw, log_tempered as log_tempered
from .jumps import (
    AbstractRateMoves as AbstractRateMoves,
    AbstractSiteMoves as AbstractSiteMoves,
    Euler as Euler,
    MixtureJump as MixtureJump,
    TauLeaping as TauLeaping,
)
from .purity import Purity as Purity
from .rates import AbstractRateGuide as AbstractRateGuide, jump_rates as jump_rates
