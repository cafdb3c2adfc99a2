"""What verbs may ask of a model and of a dynamics; nothing else in the package knows more of either."""

import abc
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
"""How far an interval of time stays from an end where a conversion is singular."""

NOISE_MARGIN = 1e-2
"""The same for a network at the noise end, where its error is amplified by `alpha(t_max) / alpha(t_min)`."""

NoiseMaker = Callable[[Shape, int], dfx.AbstractBrownianPath]
"""`make_noise(shape, index)`: the Brownian path number `index` of one sample, of events of that shape."""


class AbstractNetwork(eqx.Module):
    """A network that may be random in training (dropout). Any callable `network(t, x, condition)` serves as well."""

    @abc.abstractmethod
    def __call__(self, t: Scalar, x: PyTree, condition: Condition = None, *, key: KeyArray | None = None) -> Any:
        """The output, of the shape of `x` (logits have classes besides); without a key it is deterministic."""


def call_network(network: Network, t: Any, x: PyTree, condition: Condition, *, key: KeyArray | None = None) -> Any:
    """The output of any network; `key` goes to those that may be random."""
    if isinstance(network, AbstractNetwork):
        return network(t, x, condition, key=key)
    return network(t, x, condition)


class AbstractTimelessNetwork(AbstractNetwork):
    """A network that does not see the time; no score follows from one."""


class AbstractFeatureNetwork(AbstractNetwork):
    """A network that shows what it has inside, for losses that look there."""

    @abc.abstractmethod
    def hidden(
        self, t: Scalar, x: Array, condition: Condition = None, *, key: KeyArray | None = None
    ) -> tuple[Array, tuple[Array, ...]]:
        """The output and the hidden features of every block."""

    def __call__(self, t: Scalar, x: Array, condition: Condition = None, *, key: KeyArray | None = None) -> Array:
        return self.hidden(t, x, condition, key=key)[0]


class AbstractAverageVelocity(AbstractNetwork):
    r"""A network of the average velocity of the flow, $u(t, r, x) = (\phi_{t \to r}(x) - x) / (r - t)$.

    Called as any other network it is the velocity, $u(t, t, x)$.
    """

    @abc.abstractmethod
    def average(
        self, t: Scalar, r: Scalar, x: Event, condition: Condition = None, *, key: KeyArray | None = None
    ) -> Event:
        """The average velocity on the way from time `t`, where the event is `x`, to time `r`."""

    def __call__(self, t: Scalar, x: Event, condition: Condition = None, *, key: KeyArray | None = None) -> Event:
        return self.average(t, t, x, condition, key=key)


class AbstractPrediction(eqx.Module):
    r"""What a model says of one $x_t$. The four forms are computed on access, each of the shape of `x`."""

    @property
    @abc.abstractmethod
    def data(self) -> Event:
        r"""$\mathbb{E}[x_1 | x_t]$, the denoised data."""

    @property
    @abc.abstractmethod
    def noise(self) -> Event:
        r"""$\mathbb{E}[x_0 | x_t]$."""

    @property
    @abc.abstractmethod
    def velocity(self) -> Event:
        r"""$\mathbb{E}[\dot x_t | x_t]$, the velocity of the probability flow."""

    @property
    @abc.abstractmethod
    def score(self) -> Event:
        r"""$\nabla \log p_t(x_t)$; raises `ValueError` where the model has none."""


class AbstractDynamics(eqx.Module):
    """How a model moves a sample in time; gives diffrax its terms.

    The state may be any PyTree; `initial` makes it of one event and `readout` takes the event out of it.
    """

    calculus: eqx.AbstractClassVar[type | None]
    """`diffrax.AbstractItoSolver` or `diffrax.AbstractStratonovichSolver` where the diffusion depends on the state and
    the solver must match; None for additive noise or none, where every solver is right."""
    keeps_density: eqx.AbstractClassVar[bool]
    """Whether it is the probability flow, along which `sample(with_log_prob=True)` can carry a density."""
    default_tolerance: eqx.AbstractClassVar[float]
    """`rtol` and `atol` of an adaptive solve that names none."""

    @abc.abstractmethod
    def interval(self, model: "AbstractContinuousModel") -> tuple[float, float]:
        """Start and end of the integration variable; raises `ValueError` for a model that this does not fit."""

    @abc.abstractmethod
    def path_time(self, model: "AbstractContinuousModel", t: Scalar) -> Scalar:
        """The time of the path at which an event is when the integration variable is `t`."""

    @abc.abstractmethod
    def source(self, model: "AbstractContinuousModel") -> AbstractPrior:
        """The law of the event at the start."""

    @abc.abstractmethod
    def initial(self, x: Event, key: KeyArray) -> PyTree[Array]:
        """The state that starts at the event `x`."""

    @abc.abstractmethod
    def terms(
        self, model: "AbstractContinuousModel", condition: Condition, make_noise: NoiseMaker
    ) -> tuple[dfx.AbstractTerm, PyTree]:
        """The diffrax terms of one sample, and the `args` they are to be solved with."""

    @abc.abstractmethod
    def readout(self, state: PyTree[Array]) -> Event:
        """The event in a state."""

    @abc.abstractmethod
    def stepper(self, solver: dfx.AbstractSolver | None) -> dfx.AbstractSolver:
        """The diffrax solver of these terms; None picks the default."""


class AbstractPathDynamics(AbstractDynamics):
    """A dynamics in the time of the path, whose state is the event."""

    def path_time(self, model: "AbstractContinuousModel", t: Scalar) -> Scalar:
        return t

    def initial(self, x: Event, key: KeyArray) -> Event:
        return x

    def readout(self, state: PyTree[Array]) -> Event:
        return state


class Move(eqx.Module):
    """One of the steps of [`AbstractMoves`][], and the times between which it leads."""

    index: Array
    """From 0 to `count - 1`."""
    count: int = eqx.field(static=True)
    start: Array
    end: Array
    first: PyTree = None
    """The event before the first step: what was given, say, among masks."""
    key: KeyArray | None = None
    """Of the sample, the same in all its steps, for what they share; a step draws from the key it is given."""


class AbstractMoves(eqx.Module):
    """How a model moves a sample by steps of its own, where diffrax has nothing to integrate: jumps between classes."""

    @abc.abstractmethod
    def times(self, model: Any, grid: Any) -> Array:
        """The `(k + 1,)` times of the steps; `grid` is what `sample` was told."""

    @abc.abstractmethod
    def move(self, model: Any, step: Move, x: PyTree, condition: Condition, key: KeyArray) -> PyTree:
        """The event after one step; a token of -1 is a failure."""

    @property
    @abc.abstractmethod
    def evaluations(self) -> int:
        """Of the network, in one step."""


class AbstractModel(eqx.Module):
    """A law that is reached from a simple one through time."""

    t_min: eqx.AbstractVar[float]
    t_max: eqx.AbstractVar[float]
    dtype: eqx.AbstractVar[DType]
    """Of times, and of what a network returns."""

    @property
    @abc.abstractmethod
    def source(self) -> AbstractPrior:
        """The law at `t_min`."""

    @abc.abstractmethod
    def events(self, name: str, x: PyTree, size: int | None = None) -> PyTree:
        """A batch of events, of `size` rows where that is given; raises `ValueError` about the argument `name`."""


class AbstractSampledModel(AbstractModel):
    """A model that is sampled in discrete steps, not by a differential equation."""

    @property
    @abc.abstractmethod
    def default_sampler(self) -> AbstractMoves:
        """The sampler that `sample` uses unless it is given another."""


class AbstractContinuousModel(AbstractModel):
    """A model of continuous events with the scales of a schedule.

    `[t_min, t_max]` is where its velocity is finite.
    """

    schedule: eqx.AbstractVar[AbstractSchedule]
    prior: eqx.AbstractVar[AbstractPrior]
    """The law of the noise $x_0$."""
    shape: eqx.AbstractVar[Shape]
    is_affine: eqx.AbstractVar[bool]
    r"""Whether $x_t = \alpha x_1 + \sigma x_0$ and no more, so that the SDE of the schedule is that of the path."""

    def events(self, name: str, x: PyTree, size: int | None = None) -> Array:
        events = jnp.asarray(x, self.dtype)
        check_batch(name, events, self.shape, size)
        check_finite(name, events)
        return events

    @abc.abstractmethod
    def predict(self, t: Scalar, x: Event, condition: Condition = None) -> AbstractPrediction:
        """The prediction at time `t` (a scalar) for one event `x` and one condition."""

    @abc.abstractmethod
    def source_at(self, t: Scalar) -> AbstractPrior:
        """The law from which a dynamics that starts at `t` draws."""

    @property
    @abc.abstractmethod
    def score_interval(self) -> tuple[float, float]:
        """Where the score is finite; raises `ValueError` where the model has none."""


class AbstractWrappedModel(AbstractContinuousModel):
    """A model made from another one, with the noise of that."""

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
    """A model of events whose sites are classes: it predicts the probabilities of the data on each."""

    interpolant: eqx.AbstractVar[AbstractCategoricalPath]
    prior: eqx.AbstractVar[AbstractCategoricalPrior]
    shape: eqx.AbstractVar[Shape]

    @abc.abstractmethod
    def log_probabilities(
        self, t: Scalar, x: Tokens, condition: Condition = None, *, key: KeyArray | None = None
    ) -> Array:
        r"""$\log p(x_1^i = k | x_t)$ of every site $i$ on its own, `(*shape, K)` at time `t` for one event `x`."""


class AbstractLogitModel(AbstractCategoricalModel):
    """One that shows what its network says of every site, of those that are known as well.

    The law of the data is their softmax over what data can be; where the prior has a mask, that is all but the mask,
    and a site that is no mask is known.
    """

    @abc.abstractmethod
    def logits(self, t: Scalar, x: Tokens, condition: Condition = None, *, key: KeyArray | None = None) -> Array:
        """What the network says, `(*shape, K)`."""
