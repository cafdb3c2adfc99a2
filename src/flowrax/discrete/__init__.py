"""Samplers of categorical models: the steps that carry tokens from noise to data."""

from .ancestral import Ancestral as Ancestral, even_times as even_times
from .blocks import Blocks as Blocks
from .corrector import PredictorCorrector as PredictorCorrector
from .draw import (
    data_probabilities as data_probabilities,
    data_weights as data_weights,
    draw as draw,
    log_tempered as log_tempered,
)
from .first_hitting import FirstHitting as FirstHitting
from .jumps import (
    AbstractRateMoves as AbstractRateMoves,
    AbstractSiteMoves as AbstractSiteMoves,
    Euler as Euler,
    MixtureJump as MixtureJump,
    TauLeaping as TauLeaping,
)
from .order import (
    AbstractOrder as AbstractOrder,
    Confidence as Confidence,
    Entropy as Entropy,
    LeftToRight as LeftToRight,
    Margin as Margin,
    RandomOrder as RandomOrder,
)
from .path_planning import PathPlanning as PathPlanning
from .purity import Purity as Purity
from .rates import AbstractRateGuide as AbstractRateGuide, guided_jumps as guided_jumps, jump_rates as jump_rates
from .remasking import (
    AbstractRemasking as AbstractRemasking,
    Capped as Capped,
    Loop as Loop,
    Remasking as Remasking,
    Rescaled as Rescaled,
)
from .score import score as score
from .unmask import Unmask as Unmask
