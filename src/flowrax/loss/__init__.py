"""Losses and their weights."""

from .antithetic import AntitheticMatching as AntitheticMatching
from .equilibrium import EquilibriumMatching as EquilibriumMatching, dispersion as dispersion
from .matching import AbstractLoss as AbstractLoss, ConditionDropout as ConditionDropout, Matching as Matching
from .mean_flow import MeanFlowGuidance as MeanFlowGuidance, MeanFlowMatching as MeanFlowMatching
from .reductions import AbstractReduction as AbstractReduction, Mean as Mean, PerNode as PerNode, Sum as Sum
from .representation import RepresentationAlignment as RepresentationAlignment, WithFeatures as WithFeatures
from .weights import (
    SNR as SNR,
    AbstractWeight as AbstractWeight,
    Decay as Decay,
    EDMWeight as EDMWeight,
    Likelihood as Likelihood,
    MeasuredIn as MeasuredIn,
    MinSNR as MinSNR,
    Product as Product,
    TimeWeight as TimeWeight,
    Truncated as Truncated,
    UniformWeight as UniformWeight,
    Variational as Variational,
)
