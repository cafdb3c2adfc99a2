"""Schedules: the scales of data and noise as functions of time."""

from .base import AbstractSchedule as AbstractSchedule, Scales as Scales, Singularities as Singularities
from .clock import (
    AbstractClock as AbstractClock,
    DiffusionClock as DiffusionClock,
    IndexClock as IndexClock,
    LogSNRClock as LogSNRClock,
    SigmaClock as SigmaClock,
)
from .conditional_ot import ConditionalOT as ConditionalOT
from .cosine import Cosine as Cosine
from .discrete import DiscreteSchedule as DiscreteSchedule, ddpm_cosine as ddpm_cosine, ddpm_linear as ddpm_linear
from .learned import LearnedSNR as LearnedSNR
from .linear import Linear as Linear
from .log_snr import (
    AbstractLogSNR as AbstractLogSNR,
    CosineSNR as CosineSNR,
    LinearSNR as LinearSNR,
    LogLinearSNR as LogLinearSNR,
)
from .polynomial import Polynomial as Polynomial
from .shifted import ResolutionShift as ResolutionShift, shift_time as shift_time
from .tabulated import Tabulated as Tabulated
from .variance_exploding import EDM as EDM, VarianceExploding as VarianceExploding
from .variance_preserving import (
    AbstractVariancePreserving as AbstractVariancePreserving,
    SubVariancePreserving as SubVariancePreserving,
    VariancePreserving as VariancePreserving,
)
