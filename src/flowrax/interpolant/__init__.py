"""Interpolants: conditional paths between noise and data, and their velocities."""

from .base import AbstractInterpolant as AbstractInterpolant
from .gamma import (
    AbstractGamma as AbstractGamma,
    Brownian as Brownian,
    ConstantGamma as ConstantGamma,
    Quadratic as Quadratic,
    SineSquared as SineSquared,
)
from .path import Affine as Affine, EncoderDecoder as EncoderDecoder, Latent as Latent
