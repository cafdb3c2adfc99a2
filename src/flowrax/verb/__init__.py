"""The verbs: `sample`, `log_prob`, `posterior`, `parallel_sample` and `variational_bound`."""

from .last_step import (
    AbstractLastStep as AbstractLastStep,
    EulerStep as EulerStep,
    MeanStep as MeanStep,
    Tweedie as Tweedie,
)
from .log_prob import log_prob as log_prob
from .parallel import parallel_sample as parallel_sample
from .posterior import PosteriorSamples as PosteriorSamples, posterior as posterior
from .sample import sample as sample
from .variational_bound import (
    AbstractReconstruction as AbstractReconstruction,
    DiscreteReconstruction as DiscreteReconstruction,
    GaussianReconstruction as GaussianReconstruction,
    VariationalBound as VariationalBound,
    variational_bound as variational_bound,
)
