"""What the solvers need and diffrax lacks."""

from .brownian import GridBrownianPath as GridBrownianPath, levy_area_of as levy_area_of
from .reversible import Reversible as Reversible
from .reversible_adjoint import ReversibleAdjoint as ReversibleAdjoint
