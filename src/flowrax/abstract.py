"""The interfaces of models, networks, dynamics and samplers, on which `sample`, `log_prob` and the others depend."""

import abc
import functools
from collections.abc import Callable
from typing import Any

import diffrax as dfx
import equinox as eqx
import jax.numpy as jnp

from ._checks import check_batch, check_finite
from ._typing import Array, Condition, DType, Event, KeyArray, Network, PyTree, Scalar, Shape, Tokens
from .interpolant import AbstractCategoricalPath
from .prior import AbstractCategoricalPrior, AbstractPrior
from .schedule import AbstractSchedule

TIME_MARGIN = 1e-3
"""The default distance between a model's time interval and an end point at which a conversion is singular."""

NOISE_MARGIN = 1e-2
"""The same at the noise end, where the network's error is amplified by `alpha(t_max) / alpha(t_min)`."""

NoiseMaker = Callable[[Shape, int], dfx.AbstractBrownianPath]
"""`make_noise(shape, index)` returns the Brownian path with number `index` of one sample, with values of `shape`."""


class AbstractNetwork(eqx.Module):
    """A network that may be random in training (dropout). A plain callable `network(t, x, condition)` also works."""

    @abc.abstractmethod
    def __call__(self, t: Scalar, x: PyTree, condition: Condition = None, *, key: KeyArray | None = None) -> Any:
        """The output, with the shape of `x`; logits have an additional last axis of classes.

        The output is deterministic if `key` is None.
        """


def with_key(network: Network, key: KeyArray | None) -> Network:
    """The network as a function of `(t, x, condition)`; the key goes to networks that may be random."""
    return functools.partial(network, key=key) if isinstance(network, AbstractNetwork) else network


def call_network(network: Network, t: Any, x: PyTree, condition: Condition, *, key: KeyArray | None = None) -> Any:
    """The output of any network; the key goes to networks that may be random."""
    return with_key(network, key)(t, x, condition)


class AbstractTimelessNetwork(AbstractNetwork):
    """A network that does not depend on time. A model with such a network has no score."""


class AbstractFeatureNetwork(AbstractNetwork):
    """A network that exposes its hidden features, for losses that use them."""

    @abc.abstractmethod
    def hidden(
        self, t: Scalar, x: Array, condition: Condition = None, *, key: KeyArray | None = None
    ) -> tuple[Array, tuple[Array, ...]]:
        """The output, and the hidden features of every block."""

    def __call__(self, t: Scalar, x: Array, condition: Condition = None, *, key: KeyArray | None = None) -> Array:
        return self.hidden(t, x, condition, key=key)[0]


class AbstractAverageVelocity(AbstractNetwork):
    r"""A network of the average velocity of the flow, $u(t, r, x) = (\phi_{t \to r}(x) - x) / (r - t)$.

    Called like any other network, it returns the instantaneous velocity $u(t, t, x)$.
    """

    @abc.abstractmethod
    def average(
        self, t: Scalar, r: Scalar, x: Event, condition: Condition = None, *, key: KeyArray | None = None
    ) -> Event:
        """The average velocity between time `t`, where the event is `x`, and time `r`."""

    def __call__(self, t: Scalar, x: Event, condition: Condition = None, *, key: KeyArray | None = None) -> Event:
        return self.average(t, t, x, condition, key=key)


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


class AbstractDynamics(eqx.Module):
    """An ODE or SDE that transports samples of a model in time, as terms for diffrax.

    The state may be any PyTree: `initial` builds it from one event, and `readout` returns the event it contains.
    """

    calculus: eqx.AbstractClassVar[type | None]
    """The class of valid solvers. It is `diffrax.AbstractItoSolver` or `diffrax.AbstractStratonovichSolver` if the
    diffusion depends on the state, and None if the noise is additive or absent, when every solver is valid."""
    keeps_density: eqx.AbstractClassVar[bool]
    """Whether this is the probability flow, along which `sample(with_log_prob=True)` can integrate the log-density."""
    default_tolerance: eqx.AbstractClassVar[float]
    """The default `rtol` and `atol` of adaptive solves."""

    @abc.abstractmethod
    def interval(self, model: "AbstractContinuousModel") -> tuple[float, float]:
        """Start and end of the integration variable. Raises `ValueError` if the model does not suit the dynamics."""

    @abc.abstractmethod
    def path_time(self, model: "AbstractContinuousModel", t: Scalar) -> Scalar:
        """The time of the path that corresponds to the value `t` of the integration variable."""

    @abc.abstractmethod
    def source(self, model: "AbstractContinuousModel") -> AbstractPrior:
        """The distribution of the event at the start."""

    @abc.abstractmethod
    def initial(self, x: Event, key: KeyArray) -> PyTree[Array]:
        """The initial state for the event `x`."""

    @abc.abstractmethod
    def terms(
        self, model: "AbstractContinuousModel", condition: Condition, make_noise: NoiseMaker
    ) -> tuple[dfx.AbstractTerm, PyTree]:
        """The diffrax terms of one sample, and the `args` with which to solve them."""

    @abc.abstractmethod
    def readout(self, state: PyTree[Array]) -> Event:
        """The event contained in a state."""

    @abc.abstractmethod
    def stepper(self, solver: dfx.AbstractSolver | None) -> dfx.AbstractSolver:
        """The diffrax solver for these terms. `solver=None` gives the default solver."""


class AbstractPathDynamics(AbstractDynamics):
    """A dynamics whose integration variable is the time of the path and whose state is the event."""

    def path_time(self, model: "AbstractContinuousModel", t: Scalar) -> Scalar:
        return t

    def initial(self, x: Event, key: KeyArray) -> Event:
        return x

    def readout(self, state: PyTree[Array]) -> Event:
        return state


class Move(eqx.Module):
    """One sampler step of [`AbstractMoves`][], from time `start` to time `end`."""

    index: Array
    """The index of the step, from 0 to `count - 1`."""
    count: int = eqx.field(static=True)
    """The number of steps."""
    start: Array
    end: Array
    first: PyTree = None
    """The event before the first step. It marks, for example, which tokens are observed and which are masked."""
    key: KeyArray | None = None
    """The sample's key, identical at every step, for randomness that the steps share. Randomness of a single step uses
    the key passed to `move`."""


class AbstractMoves(eqx.Module):
    """A sampler with its own discrete steps, for models without an ODE or SDE: for example jumps between classes."""

    @abc.abstractmethod
    def times(self, model: Any, grid: Any) -> Array:
        """The times of `k` steps, `(k + 1,)`; `grid` is the argument of `sample`."""

    @abc.abstractmethod
    def move(self, model: Any, step: Move, x: PyTree, condition: Condition, key: KeyArray) -> PyTree:
        """The event after one step. A token of -1 marks a failed sample."""

    @property
    @abc.abstractmethod
    def evaluations(self) -> int:
        """The number of network evaluations per step."""


class AbstractModel(eqx.Module):
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


class AbstractSampledModel(AbstractModel):
    """A model that is sampled in discrete steps, not by a differential equation."""

    @property
    @abc.abstractmethod
    def default_sampler(self) -> AbstractMoves:
        """The sampler that `sample` uses unless it is given another."""


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
        events = jnp.asarray(x, self.dtype)
        check_batch(name, events, self.shape, size)
        check_finite(name, events)
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
    """A model derived from another model. It has the same prior."""

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


class AbstractCategoricalModel(AbstractSampledModel):
    """A model of events whose sites hold classes. It predicts the class probabilities of the data at each site."""

    interpolant: eqx.AbstractVar[AbstractCategoricalPath]
    prior: eqx.AbstractVar[AbstractCategoricalPrior]
    shape: eqx.AbstractVar[Shape]

    @abc.abstractmethod
    def log_probabilities(
        self, t: Scalar, x: Tokens, condition: Condition = None, *, key: KeyArray | None = None
    ) -> Array:
        r"""Log-probabilities $\log p(x_1^i = k | x_t)$ for each site $i$, `(*shape, K)`, of one event `x` at `t`."""


class AbstractLogitModel(AbstractCategoricalModel):
    """A categorical model that exposes the network's logits at every site, including observed sites.

    The distribution of the data is the softmax of the logits over the classes of the data. If the prior has a mask,
    these are all classes except the mask, and an unmasked site holds the clean token with probability one.
    """

    @abc.abstractmethod
    def logits(self, t: Scalar, x: Tokens, condition: Condition = None, *, key: KeyArray | None = None) -> Array:
        """The network's logits, `(*shape, K)`."""
