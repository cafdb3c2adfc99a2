"""Interpolants: the conditional path and its velocity."""

from .affine import Affine as Affine
from .base import AbstractInterpolant as AbstractInterpolant
