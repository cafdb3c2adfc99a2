"""Exponential integrators in log-SNR time, which solve the linear part of a diffusion's equation exactly."""

from .base import AbstractExponentialSolver as AbstractExponentialSolver, check_predictions as check_predictions
from .ddim import DDIM as DDIM
from .dpm_solver import DPMSolver as DPMSolver
from .edm_heun import EDMHeun as EDMHeun
from .multistep import DPMSolverPP as DPMSolverPP
from .seeds import SEEDS as SEEDS
from .unipc import UniPC as UniPC
