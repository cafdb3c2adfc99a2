"""Losses and their weights."""

from .alignment import RepresentationAlignment as RepresentationAlignment, WithFeatures as WithFeatures
from .antithetic import Antithetic as Antithetic
from .equilibrium import EquilibriumMatching as EquilibriumMatching, dispersion as dispersion
from .matching import AbstractLoss as AbstractLoss, ConditionDropout as ConditionDropout, Matching as Matching
from .mean_flow import MeanFlowGuidance as MeanFlowGuidance, MeanFlowMatching as MeanFlowMatching
from .reductions import AbstractReduction as AbstractReduction, Mean as Mean, PerNode as PerNode, Sum as Sum
from .weights import (
    EDM as EDM,
    SNR as SNR,
    AbstractWeight as AbstractWeight,
    Decay as Decay,
    Likelihood as Likelihood,
    MeasuredIn as MeasuredIn,
    MinSNR as MinSNR,
    Product as Product,
    TimeWeight as TimeWeight,
    Truncated as Truncated,
    Uniform as Uniform,
    Variational as Variational,
)
