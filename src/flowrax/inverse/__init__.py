"""Inverse problems."""

from .posterior import PosteriorSamples as PosteriorSamples, posterior as posterior
