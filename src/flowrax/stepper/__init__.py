"""Solvers, Brownian paths and adjoints that diffrax lacks."""

from .brownian import GridBrownianPath as GridBrownianPath, levy_area_of as levy_area_of
from .exponential import (
    DDIM as DDIM,
    SEEDS as SEEDS,
    AbstractExponentialSolver as AbstractExponentialSolver,
    Churn as Churn,
    DPMSolver as DPMSolver,
    DPMSolverPP as DPMSolverPP,
    EDMHeun as EDMHeun,
    Restart as Restart,
    UniPC as UniPC,
    check_predictions as check_predictions,
)
from .jump import Jump as Jump
from .quadrature import Trapezoidal as Trapezoidal
from .reversible import Reversible as Reversible
from .reversible_adjoint import ReversibleAdjoint as ReversibleAdjoint
