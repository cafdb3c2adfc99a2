r"""The abstract classes of models: the methods that dynamics, engine and verbs rely on."""

import abc

import equinox as eqx

from .._base.arguments import Checked
from .._base.arrays import as_numbers
from .._base.checks import check_batch
from .._base.rows import check_finite_leaves, columns_of, row_arrays
from .._base.typing import Array, Condition, DType, Event, PyTree, Scalar, Shape
from ..prior import AbstractPrior
from ..schedule import AbstractSchedule

TIME_MARGIN = 1e-3
"""The default distance between a model's time interval and an end point at which a conversion is singular."""


NOISE_MARGIN = 1e-2
"""The same at the noise end, where the network's error is amplified by `alpha(t_max) / alpha(t_min)`."""


class AbstractPrediction(eqx.Module):
    r"""A model's prediction at one $x_t$. Its four forms are computed on access; each has the shape of `x`."""

    @property
    @abc.abstractmethod
    def data(self) -> Event:
        r"""$\mathbb{E}[x_1 | x_t]$, the denoised data; raises `ValueError` on a path with a latent."""

    @property
    @abc.abstractmethod
    def noise(self) -> Event:
        r"""$\mathbb{E}[x_0 | x_t]$; raises `ValueError` on a path with a latent."""

    @property
    @abc.abstractmethod
    def velocity(self) -> Event:
        r"""$\mathbb{E}[\dot x_t | x_t]$, the velocity of the probability flow."""

    @property
    @abc.abstractmethod
    def score(self) -> Event:
        r"""$\nabla \log p_t(x_t)$; raises `ValueError` if the model has no score."""


class AbstractModel(eqx.Module, metaclass=Checked):
    """A distribution of events, connected to a simple source distribution by a path in time."""

    t_min: eqx.AbstractVar[float]
    t_max: eqx.AbstractVar[float]
    dtype: eqx.AbstractVar[DType]
    """The dtype of times and of network outputs."""

    @property
    @abc.abstractmethod
    def source(self) -> AbstractPrior:
        """The distribution of events at `t_min`, from which samples start."""

    @abc.abstractmethod
    def events(self, name: str, x: PyTree, size: int | None = None) -> PyTree:
        """Validates and converts a batch of events, of size `size` if given.

        Raises `ValueError` with `name` as the name of the argument.
        """


class AbstractContinuousModel(AbstractModel):
    """A model of continuous events on a path whose scales are given by a schedule.

    The velocity is finite on `[t_min, t_max]`.
    """

    schedule: eqx.AbstractVar[AbstractSchedule]
    prior: eqx.AbstractVar[AbstractPrior]
    """The distribution of the noise $x_0$."""
    shape: eqx.AbstractVar[Shape]
    is_affine: eqx.AbstractVar[bool]
    r"""Whether $x_t = \alpha x_1 + \sigma x_0$, without a latent, so that the SDE of the schedule applies."""

    def events(self, name: str, x: PyTree, size: int | None = None) -> Array:
        events = as_numbers(name, row_arrays(name, x), self.dtype)
        check_batch(name, events, self.shape, size)
        check_finite_leaves(name, events, columns_of(x))
        return events

    @abc.abstractmethod
    def predict(self, t: Scalar, x: Event, condition: Condition = None) -> AbstractPrediction:
        """The prediction at a scalar time `t`, for one event `x` and one condition."""

    @abc.abstractmethod
    def source_at(self, t: Scalar) -> AbstractPrior:
        """The distribution from which a dynamics that starts at time `t` draws."""

    @property
    @abc.abstractmethod
    def score_interval(self) -> tuple[float, float]:
        """The time interval on which the score is finite. Raises `ValueError` if the model has no score."""


class AbstractWrappedModel(AbstractContinuousModel):
    """A model derived from another model. It has the same prior.

    Subclasses define `predict`, `source_at`, `score_interval`, and the schedule, shape, dtype and time interval, which
    may be those of `model`.
    """

    model: eqx.AbstractVar[AbstractContinuousModel]

    @property
    def prior(self) -> AbstractPrior:
        return self.model.prior

    @property
    def is_affine(self) -> bool:
        return self.model.is_affine

    @property
    def source(self) -> AbstractPrior:
        return self.source_at(self.t_min)
