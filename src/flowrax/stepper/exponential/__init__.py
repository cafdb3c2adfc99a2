"""Exponential integrators in log-SNR time: the linear part of a diffusion's equation is solved exactly."""

from .base import AbstractExponentialSolver as AbstractExponentialSolver
from .ddim import DDIM as DDIM
from .dpm_solver import DPMSolver as DPMSolver
from .multistep import DPMSolverPP as DPMSolverPP
from .unipc import UniPC as UniPC
