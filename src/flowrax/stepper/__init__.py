"""What the solvers need and diffrax lacks."""

from .brownian import GridBrownianPath as GridBrownianPath, levy_area_of as levy_area_of
from .exponential import (
    DDIM as DDIM,
    AbstractExponentialSolver as AbstractExponentialSolver,
    DPMSolver as DPMSolver,
    DPMSolverPP as DPMSolverPP,
    UniPC as UniPC,
)
