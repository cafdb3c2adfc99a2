"""The divergence of a vector field: exact, or estimated with random probes and a standard error."""

from .base import AbstractDivergence as AbstractDivergence, AbstractRandomDivergence as AbstractRandomDivergence
from .control_variate import ControlVariate as ControlVariate
from .exact import Exact as Exact
from .hutchinson import Hutchinson as Hutchinson
from .low_rank import HutchPP as HutchPP, XTrace as XTrace
from .probes import (
    AbstractProbes as AbstractProbes,
    GaussianProbes as GaussianProbes,
    Hadamard as Hadamard,
    Rademacher as Rademacher,
    Sphere as Sphere,
)
