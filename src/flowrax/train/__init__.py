"""Training: `fit`, and checkpoints."""

from .checkpoint import load as load, save as save
from .fit import FitResult as FitResult, fit as fit
from .potentials import fit_semidiscrete as fit_semidiscrete
from .step import TrainState as TrainState
