"""Categorical data: priors, paths, models, samplers, losses, guidance and likelihood bounds."""

from . import oracle as oracle
from .base import (
    AbstractCategoricalModel as AbstractCategoricalModel,
    AbstractLogitModel as AbstractLogitModel,
    AbstractSampledModel as AbstractSampledModel,
    AbstractSampler as AbstractSampler,
    SamplerStep as SamplerStep,
)
from .categorical_model import CategoricalModel as CategoricalModel, WithEvidence as WithEvidence
from .d3pm import D3PM as D3PM
from .guidance import (
    ClassifierFreeCategorical as ClassifierFreeCategorical,
    FirstOrderRatio as FirstOrderRatio,
    LikelihoodRatio as LikelihoodRatio,
)
from .loss.categorical_bound import CategoricalBound as CategoricalBound
from .loss.cross_entropy import (
    AbstractTokenWeight as AbstractTokenWeight,
    CrossEntropy as CrossEntropy,
    ELBOWeight as ELBOWeight,
    InverseRemaining as InverseRemaining,
)
from .loss.generalised_kl import GeneralisedKL as GeneralisedKL
from .loss.hybrid import Hybrid as Hybrid
from .path.base import AbstractCategoricalPath as AbstractCategoricalPath
from .path.mixture import Mixture as Mixture
from .path.reverse import (
    AbstractReverse as AbstractReverse,
    AveragedJoint as AveragedJoint,
    AveragedPosterior as AveragedPosterior,
    variational_term as variational_term,
)
from .path.transitions import AbstractTransitions as AbstractTransitions, Ordinal as Ordinal, Transitions as Transitions
from .prior import (
    AbstractCategoricalPrior as AbstractCategoricalPrior,
    Categorical as Categorical,
    Masked as Masked,
    UniformCategorical as UniformCategorical,
    pad_classes as pad_classes,
)
from .sampler.ancestral import Ancestral as Ancestral, even_times as even_times
from .sampler.blocks import AbstractBlockModel as AbstractBlockModel, Blocks as Blocks
from .sampler.clean_tokens import (
    data_probabilities as data_probabilities,
    data_weights as data_weights,
    log_tempered as log_tempered,
    score as score,
)
from .sampler.corrector import CorrectorSampler as CorrectorSampler
from .sampler.first_hitting import FirstHitting as FirstHitting
from .sampler.jumps import (
    AbstractRateSampler as AbstractRateSampler,
    AbstractSiteSampler as AbstractSiteSampler,
    Euler as Euler,
    MixtureJump as MixtureJump,
    TauLeaping as TauLeaping,
)
from .sampler.order import (
    AbstractOrder as AbstractOrder,
    Confidence as Confidence,
    Entropy as Entropy,
    LeftToRight as LeftToRight,
    Margin as Margin,
    RandomOrder as RandomOrder,
)
from .sampler.path_planning import PathPlanning as PathPlanning
from .sampler.purity import Purity as Purity
from .sampler.rates import (
    AbstractRateGuide as AbstractRateGuide,
    guided_jumps as guided_jumps,
    jump_rates as jump_rates,
)
from .sampler.remasking import (
    AbstractRemasking as AbstractRemasking,
    CappedRemasking as CappedRemasking,
    Loop as Loop,
    Remasking as Remasking,
    RescaledRemasking as RescaledRemasking,
)
from .sampler.unmask import Unmask as Unmask
from .schedule import (
    AbstractMasking as AbstractMasking,
    CosineMasking as CosineMasking,
    LogLinearMasking as LogLinearMasking,
    PolynomialMasking as PolynomialMasking,
    TabulatedMasking as TabulatedMasking,
)
from .sites import (
    at_class as at_class,
    draw as draw,
    invert as invert,
    log_or_infinity as log_or_infinity,
    mean_where as mean_where,
    probabilities_of as probabilities_of,
    spread as spread,
)
