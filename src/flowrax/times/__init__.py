"""Where to train (samplers)."""

from .samplers import (
    AbstractTimes as AbstractTimes,
    LogitNormal as LogitNormal,
    Stratified as Stratified,
    Uniform as Uniform,
)
