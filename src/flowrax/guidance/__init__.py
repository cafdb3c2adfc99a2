"""Models guided by an observation or by a condition."""

from .base import (
    AbstractGuidance as AbstractGuidance,
    GuidedModel as GuidedModel,
    GuidedPrediction as GuidedPrediction,
    guided_prediction as guided_prediction,
)
from .classifier_free import ClassifierFree as ClassifierFree
from .dps import DPS as DPS
from .gaussian import AbstractGaussianGuidance as AbstractGaussianGuidance, GaussianLikelihood as GaussianLikelihood
from .mmps import MMPS as MMPS
from .pigdm import PiGDM as PiGDM
from .tmpd import TMPD as TMPD
