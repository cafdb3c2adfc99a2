"""Couplings: how noise is paired with data."""

from .acceleration import Anderson as Anderson, Annealing as Annealing, Momentum as Momentum
from .aligned import EquivariantOT as EquivariantOT, Kabsch as Kabsch
from .base import (
    AbstractCoupling as AbstractCoupling,
    AbstractDataCoupling as AbstractDataCoupling,
    AbstractHostCoupling as AbstractHostCoupling,
    Pairs as Pairs,
)
from .cost import (
    ConditionalCost as ConditionalCost,
    KabschDistance as KabschDistance,
    SquaredDistance as SquaredDistance,
)
from .exact_ot import ExactOT as ExactOT
from .greedy import Greedy as Greedy
from .in_order import Independent as Independent, MeasuredPairs as MeasuredPairs, Reflow as Reflow
from .low_rank import LowRankSinkhorn as LowRankSinkhorn
from .pair_draw import AbstractDraw as AbstractDraw, JointDraw as JointDraw, PerData as PerData, PerNoise as PerNoise
from .plan import Plan as Plan
from .rotation import kabsch as kabsch, kabsch_cost as kabsch_cost
from .semidiscrete import PotentialsRecord as PotentialsRecord, Semidiscrete as Semidiscrete
from .sinkhorn import Sinkhorn as Sinkhorn, UnbalancedSinkhorn as UnbalancedSinkhorn
from .transport import Convergence as Convergence
