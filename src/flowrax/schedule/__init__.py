"""Schedules: time to the scales of data and noise."""

from .base import AbstractSchedule as AbstractSchedule, Scales as Scales
from .cosine import Cosine as Cosine
from .discrete import (
    DiscreteSchedule as DiscreteSchedule,
    ddpm_cosine as ddpm_cosine,
    ddpm_linear as ddpm_linear,
)
from .linear import Linear as Linear
from .variance_exploding import EDM as EDM, VarianceExploding as VarianceExploding
from .variance_preserving import (
    SubVariancePreserving as SubVariancePreserving,
    VariancePreserving as VariancePreserving,
)
