"""Guidance: models that wrap a model and change its predictions."""

from .base import AbstractGuidance as AbstractGuidance, GuidedModel as GuidedModel
from .categorical import ClassifierFreeCategorical as ClassifierFreeCategorical
from .classifier_free import ClassifierFree as ClassifierFree
from .pigdm import PiGDM as PiGDM
from .predictor import FirstOrderRatio as FirstOrderRatio, LikelihoodRatio as LikelihoodRatio
