"""Couplings: how noise meets data."""

from .base import AbstractCoupling as AbstractCoupling
from .exact_ot import ExactOT as ExactOT
from .independent import Independent as Independent
