"""Moves of tokens: how a categorical model goes from noise to data."""

from .ancestral import Ancestral as Ancestral
from .draw import draw as draw, log_tempered as log_tempered
