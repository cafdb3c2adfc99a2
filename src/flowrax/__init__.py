"""Stochastic interpolants in JAX: sampling, log-likelihoods and posteriors one can trust."""

from typing import TYPE_CHECKING

from . import (
    coupling as coupling,
    density as density,
    discrete as discrete,
    divergence as divergence,
    dynamics as dynamics,
    guidance as guidance,
    interpolant as interpolant,
    inverse as inverse,
    joint as joint,
    loss as loss,
    model as model,
    observation as observation,
    plot as plot,
    prior as prior,
    schedule as schedule,
    stepper as stepper,
    times as times,
    train as train,
    verb as verb,
)
from ._base.citation import citation as citation
from ._base.condition import Batched as Batched
from ._base.result import (
    RESULTS as RESULTS,
    LogProb as LogProb,
    Samples as Samples,
    SolveError as SolveError,
    Stats as Stats,
)
from ._base.version import __version__ as __version__
from .coupling import ExactOT as ExactOT, Independent as Independent
from .density import DensityEstimator as DensityEstimator
from .discrete import CategoricalModel as CategoricalModel
from .divergence import ControlVariate as ControlVariate, Exact as Exact, Hutchinson as Hutchinson
from .dynamics import (
    Churn as Churn,
    HybridSDE as HybridSDE,
    Jump as Jump,
    Langevin as Langevin,
    PredictorCorrector as PredictorCorrector,
    ProbabilityFlow as ProbabilityFlow,
    Restart as Restart,
    ReverseSDE as ReverseSDE,
    StochasticFlow as StochasticFlow,
    TemperedFlow as TemperedFlow,
    UnderdampedLangevin as UnderdampedLangevin,
    chain as chain,
)
from .guidance import (
    DPS as DPS,
    MMPS as MMPS,
    TMPD as TMPD,
    ClassifierFree as ClassifierFree,
    PiGDM as PiGDM,
)
from .interpolant import Affine as Affine
from .inverse import (
    Conjugate as Conjugate,
    ImportanceSampling as ImportanceSampling,
    NoiseSpaceMCMC as NoiseSpaceMCMC,
    TemperedSMC as TemperedSMC,
    TwistedSMC as TwistedSMC,
)
from .joint import JointModel as JointModel, JointSampler as JointSampler, SharedNetwork as SharedNetwork
from .loss import Matching as Matching
from .model import (
    Bridge as Bridge,
    EDMPreconditioner as EDMPreconditioner,
    Model as Model,
    WarpedModel as WarpedModel,
    target as target,
    warp as warp,
)
from .model.target import Data as Data, Noise as Noise, Score as Score, V as V, Velocity as Velocity
from .observation import (
    LinearGaussian as LinearGaussian,
    NonlinearGaussian as NonlinearGaussian,
    Poisson as Poisson,
)
from .schedule import (
    EDM as EDM,
    Cosine as Cosine,
    Linear as Linear,
    SubVariancePreserving as SubVariancePreserving,
    VarianceExploding as VarianceExploding,
    VariancePreserving as VariancePreserving,
)
from .stepper import (
    DDIM as DDIM,
    SEEDS as SEEDS,
    DPMSolver as DPMSolver,
    DPMSolverPP as DPMSolverPP,
    EDMHeun as EDMHeun,
    Reversible as Reversible,
    ReversibleAdjoint as ReversibleAdjoint,
    UniPC as UniPC,
)
from .train import FitResult as FitResult, fit as fit, fit_semidiscrete as fit_semidiscrete, load as load, save as save
from .verb import (
    EulerStep as EulerStep,
    MeanStep as MeanStep,
    PosteriorSamples as PosteriorSamples,
    Tweedie as Tweedie,
    log_prob as log_prob,
    posterior as posterior,
    sample as sample,
    variational_bound as variational_bound,
)

if TYPE_CHECKING:
    from . import diagnostics as diagnostics, nn as nn, oracle as oracle
else:
    # Neither sampling nor training needs these, so each is imported at its first use.
    _LAZY = ("diagnostics", "nn", "oracle")

    def __getattr__(name: str) -> object:
        if name in _LAZY:
            import importlib

            return importlib.import_module(f".{name}", __name__)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *_LAZY})
