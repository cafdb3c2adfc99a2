"""Where to train (samplers) and where to step (grids)."""

from .grids import edm_grid as edm_grid, log_snr_grid as log_snr_grid
from .samplers import (
    AbstractTimes as AbstractTimes,
    LogitNormal as LogitNormal,
    Stratified as Stratified,
    Uniform as Uniform,
)
