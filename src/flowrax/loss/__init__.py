"""Losses and their weights."""

from .matching import AbstractLoss as AbstractLoss, ConditionDropout as ConditionDropout, Matching as Matching
from .weights import (
    EDM as EDM,
    SNR as SNR,
    AbstractWeight as AbstractWeight,
    Likelihood as Likelihood,
    MinSNR as MinSNR,
    Uniform as Uniform,
)
