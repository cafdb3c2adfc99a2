"""Solvers, Brownian paths and adjoints that diffrax lacks."""

from .brownian import GridBrownianPath as GridBrownianPath, levy_area_of as levy_area_of
from .brownian_tree import BrownianTree as BrownianTree
from .exponential.base import (
    AbstractExponentialSolver as AbstractExponentialSolver,
    Problem as Problem,
    Step as Step,
    check_predictions as check_predictions,
)
from .exponential.ddim import DDIM as DDIM
from .exponential.dpm_solver import DPMSolver as DPMSolver
from .exponential.edm_heun import EDMHeun as EDMHeun
from .exponential.multistep import DPMSolverPP as DPMSolverPP
from .exponential.seeds import SEEDS as SEEDS
from .exponential.unipc import UniPC as UniPC
from .quadrature import Trapezoidal as Trapezoidal
from .reversible import Reversible as Reversible
from .reversible_adjoint import ReversibleAdjoint as ReversibleAdjoint
from .semilinear import SemilinearTerm as SemilinearTerm
