"""Interpolants: conditional paths between noise and data, and their velocities."""

from .affine import Affine as Affine
from .base import AbstractInterpolant as AbstractInterpolant
from .gamma import (
    AbstractGamma as AbstractGamma,
    Brownian as Brownian,
    ConstantGamma as ConstantGamma,
    Quadratic as Quadratic,
    SineSquared as SineSquared,
)
from .latent import EncoderDecoder as EncoderDecoder, Latent as Latent
