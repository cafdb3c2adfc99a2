"""Couplings: how noise meets data."""

from .alignment import kabsch as kabsch, kabsch_cost as kabsch_cost
from .base import AbstractCoupling as AbstractCoupling, AbstractHostCoupling as AbstractHostCoupling
from .exact_ot import ExactOT as ExactOT
from .independent import Independent as Independent
