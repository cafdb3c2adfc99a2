"""Losses and their weights."""

from .alignment import RepresentationAlignment as RepresentationAlignment, WithFeatures as WithFeatures
from .antithetic import Antithetic as Antithetic
from .categorical_bound import CategoricalBound as CategoricalBound
from .cross_entropy import (
    AbstractTokenWeight as AbstractTokenWeight,
    Bound as Bound,
    CrossEntropy as CrossEntropy,
    InverseRemaining as InverseRemaining,
)
from .equilibrium import EquilibriumMatching as EquilibriumMatching, dispersion as dispersion
from .generalised_kl import GeneralisedKL as GeneralisedKL
from .hybrid import Hybrid as Hybrid
from .joint import Apart as Apart, JointMatching as JointMatching
from .matching import AbstractLoss as AbstractLoss, ConditionDropout as ConditionDropout, Matching as Matching
from .mean_flow import (
    MeanFlowGuidance as MeanFlowGuidance,
    MeanFlowMatching as MeanFlowMatching,
    average_velocity as average_velocity,
)
from .reductions import AbstractReduction as AbstractReduction, Mean as Mean, PerNode as PerNode, Sum as Sum
from .variational import (
    AbstractReconstruction as AbstractReconstruction,
    DiscreteReconstruction as DiscreteReconstruction,
    GaussianReconstruction as GaussianReconstruction,
    VariationalBound as VariationalBound,
    variational_bound as variational_bound,
)
from .weights import (
    EDM as EDM,
    SNR as SNR,
    AbstractWeight as AbstractWeight,
    Decay as Decay,
    ErrorIn as ErrorIn,
    Likelihood as Likelihood,
    MinSNR as MinSNR,
    OfTime as OfTime,
    Product as Product,
    Truncated as Truncated,
    Uniform as Uniform,
    Variational as Variational,
)
