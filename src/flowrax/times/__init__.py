"""Distributions of training times, and grids of time steps for solvers."""

from .base import AbstractTimes as AbstractTimes, AbstractUnitTimes as AbstractUnitTimes
from .composed import (
    Discrete as Discrete,
    MixtureTimes as MixtureTimes,
    Shifted as Shifted,
    Stepped as Stepped,
    TimePairs as TimePairs,
    Within as Within,
    time_to_index as time_to_index,
)
from .distributions import (
    Antithetic as Antithetic,
    Beta as Beta,
    LikelihoodTimes as LikelihoodTimes,
    LogitNormal as LogitNormal,
    LogNormal as LogNormal,
    Stratified as Stratified,
    Uniform as Uniform,
)
from .grids import (
    discretize as discretize,
    edm_grid as edm_grid,
    entropic_grid as entropic_grid,
    entropy_rate as entropy_rate,
    index_grid as index_grid,
    linear_grid as linear_grid,
    log_grid as log_grid,
    log_snr_grid as log_snr_grid,
    pad_grid as pad_grid,
    power_grid as power_grid,
    rate_grid as rate_grid,
)
