"""Where to train (samplers) and where to step (grids)."""

from .base import AbstractTimes as AbstractTimes, AbstractUnitTimes as AbstractUnitTimes
from .composed import Pairs as Pairs
from .grids import edm_grid as edm_grid, log_snr_grid as log_snr_grid
from .samplers import (
    Antithetic as Antithetic,
    Beta as Beta,
    LogitNormal as LogitNormal,
    Stratified as Stratified,
    Uniform as Uniform,
)
