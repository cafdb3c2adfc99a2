"""Schedules: the scales of data and noise as functions of time."""

from .base import (
    AbstractSchedule as AbstractSchedule,
    AbstractSigmaSchedule as AbstractSigmaSchedule,
    Scales as Scales,
    Singularities as Singularities,
)
from .chain import (
    DiscreteSchedule as DiscreteSchedule,
    Tabulated as Tabulated,
    ddpm_cosine as ddpm_cosine,
    ddpm_linear as ddpm_linear,
)
from .clock import (
    AbstractClock as AbstractClock,
    DiffusionClock as DiffusionClock,
    IndexClock as IndexClock,
    LogSNRClock as LogSNRClock,
    SigmaClock as SigmaClock,
)
from .cosine import Cosine as Cosine, CosineSNR as CosineSNR
from .log_snr import AbstractLogSNR as AbstractLogSNR, LearnedSNR as LearnedSNR, LogLinearSNR as LogLinearSNR
from .shifted import ResolutionShift as ResolutionShift, shift_time as shift_time
from .straight import ConditionalOT as ConditionalOT, Linear as Linear, Polynomial as Polynomial
from .variance_exploding import EDM as EDM, VarianceExploding as VarianceExploding
from .variance_preserving import (
    AbstractVariancePreserving as AbstractVariancePreserving,
    LinearSNR as LinearSNR,
    SubVariancePreserving as SubVariancePreserving,
    VariancePreserving as VariancePreserving,
)
