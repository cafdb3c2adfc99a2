"""Guidance: models that wrap a model."""

from .base import AbstractGuidance as AbstractGuidance, GuidedModel as GuidedModel
from .pigdm import PiGDM as PiGDM
