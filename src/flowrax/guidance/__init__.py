"""Guidance: models that wrap a model."""

from .base import AbstractGuidance as AbstractGuidance, GuidedModel as GuidedModel
from .classifier_free import ClassifierFree as ClassifierFree
from .pigdm import PiGDM as PiGDM
