"""Couplings: how noise is paired with data."""

from .aligned import EquivariantOT as EquivariantOT, Kabsch as Kabsch
from .base import AbstractCoupling as AbstractCoupling, AbstractHostCoupling as AbstractHostCoupling, Pairs as Pairs
from .cost import (
    ConditionalCost as ConditionalCost,
    KabschDistance as KabschDistance,
    SquaredDistance as SquaredDistance,
)
from .exact_ot import ExactOT as ExactOT
from .greedy import Greedy as Greedy
from .in_order import Independent as Independent, MeasuredPairs as MeasuredPairs, Reflow as Reflow
from .pair_draw import AbstractDraw as AbstractDraw, JointDraw as JointDraw, PerData as PerData, PerNoise as PerNoise
from .rotation import kabsch as kabsch, kabsch_cost as kabsch_cost
from .sinkhorn import Plan as Plan, Sinkhorn as Sinkhorn, UnbalancedSinkhorn as UnbalancedSinkhorn
