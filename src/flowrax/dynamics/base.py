r"""The abstract classes of dynamics: how a model moves a sample in time, as diffrax terms."""

import abc
from collections.abc import Callable

import diffrax as dfx
import equinox as eqx
import jax.numpy as jnp
import lineax as lx

from .._base.arguments import Checked
from .._base.typing import Array, Condition, Event, KeyArray, PyTree, Scalar, Shape
from ..model import shaped
from ..model.base import AbstractContinuousModel
from ..prior import AbstractPrior

NoiseMaker = Callable[[Shape, int], dfx.AbstractBrownianPath]
"""`make_noise(shape, index)` returns the Brownian path with number `index` of one sample, with values of `shape`."""


class AbstractDynamics(eqx.Module, metaclass=Checked):
    """An ODE or SDE that transports samples of a model in time, as terms for diffrax.

    The state may be any PyTree: `initial` builds it from one event, and `readout` returns the event it contains.
    """

    calculus: eqx.AbstractClassVar[type | None]
    """The class of valid solvers. It is `diffrax.AbstractItoSolver` or `diffrax.AbstractStratonovichSolver` if the
    diffusion depends on the state, and None if the noise is additive or absent, when every solver is valid."""
    keeps_density: eqx.AbstractClassVar[bool]
    """Whether this is the probability flow, along which `sample(with_log_prob=True)` can integrate the log-density."""
    has_noise: eqx.AbstractClassVar[bool]
    """Whether the equation is stochastic."""
    default_tolerance: eqx.AbstractClassVar[float]
    """The default `rtol` and `atol` of adaptive solves."""

    @abc.abstractmethod
    def interval(self, model: AbstractContinuousModel) -> tuple[float, float]:
        """Start and end of the integration variable. Raises `ValueError` if the model does not suit the dynamics."""

    @abc.abstractmethod
    def path_time(self, model: AbstractContinuousModel, t: Scalar) -> Scalar:
        """The time of the path that corresponds to the value `t` of the integration variable."""

    @abc.abstractmethod
    def source(self, model: AbstractContinuousModel) -> AbstractPrior:
        """The distribution of the event at the start."""

    @abc.abstractmethod
    def initial(self, x: Event, key: KeyArray) -> PyTree[Array]:
        """The initial state for the event `x`."""

    @abc.abstractmethod
    def terms(
        self, model: AbstractContinuousModel, condition: Condition, make_noise: NoiseMaker
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

    def path_time(self, model: AbstractContinuousModel, t: Scalar) -> Scalar:
        return t

    def initial(self, x: Event, key: KeyArray) -> Event:
        return x

    def readout(self, state: PyTree[Array]) -> Event:
        return state


def noise_term(model: AbstractContinuousModel, path: dfx.AbstractBrownianPath) -> dfx.ControlTerm:
    r"""The term $C^{1/2} \mathrm{d}W$ of a standard Brownian path, where $C$ is the prior's covariance."""
    return dfx.ControlTerm(_unit, shaped(model, path))


def _unit(t: Scalar, x: Event, args: PyTree) -> lx.AbstractLinearOperator:
    return lx.DiagonalLinearOperator(jnp.ones_like(x))
