r"""A network with its interpolant and target: one network output gives data, noise, velocity and score.

With a preconditioner the output is $c_{\text{skip}}\, x + c_{\text{out}}\, F(c_{\text{in}}\, x, c_{\text{noise}})$.
"""

import abc
import functools

import equinox as eqx
import jax
import jax.numpy as jnp

from ._checks import check_interval, check_shape
from ._typing import Condition, DType, Event, KeyArray, Network, Scalar, Shape
from .abstract import (
    NOISE_MARGIN,
    TIME_MARGIN,
    AbstractContinuousModel,
    AbstractDynamics,
    AbstractNetwork,
    AbstractPrediction,
)
from .coupling import AbstractCoupling, Independent
from .dynamics import ProbabilityFlow
from .interpolant import AbstractInterpolant, Affine
from .prior import AbstractPrior, Gaussian
from .schedule import AbstractSchedule, Scales
from .target import AbstractTarget, Data, Velocity


class AbstractPreconditioner(eqx.Module):
    """Scales what goes into a network and what comes out."""

    @abc.abstractmethod
    def __call__(
        self, network: Network, schedule: AbstractSchedule, t: Scalar, x: Event, condition: Condition
    ) -> Event:
        """The output in the model's target."""

    @abc.abstractmethod
    def singular_ends(self, schedule: AbstractSchedule) -> tuple[bool, bool]:
        """Whether it is infinite at `t = 0` and at `t = 1`."""


class Unscaled(AbstractPreconditioner):
    """The network as it is, called with `t`."""

    def __call__(
        self, network: Network, schedule: AbstractSchedule, t: Scalar, x: Event, condition: Condition
    ) -> Event:
        return network(t, x, condition)

    def singular_ends(self, schedule: AbstractSchedule) -> tuple[bool, bool]:
        return False, False


class EDMPreconditioner(AbstractPreconditioner):
    r"""Unit variance in and out, for a network whose target is the data (Karras et al. 2022, table 1).

    For $x = \alpha d + \sigma n$ and data of standard deviation $\sigma_d$, with $V = \alpha^2 \sigma_d^2 + \sigma^2$:
    $c_{\text{in}} = V^{-1/2}$, $c_{\text{skip}} = \alpha \sigma_d^2 / V$, $c_{\text{out}} = \sigma \sigma_d V^{-1/2}$,
    $c_{\text{noise}} = \tfrac14 \log (\sigma / \alpha)$. With $\alpha = 1$ these are the paper's.

    ??? cite "Reference"

        ```bibtex
        @inproceedings{karras2022elucidating,
            author={Karras, Tero and Aittala, Miika and Aila, Timo and Laine, Samuli},
            title={Elucidating the Design Space of Diffusion-Based Generative Models},
            booktitle={Advances in Neural Information Processing Systems},
            year={2022},
        }
        ```
    """

    sigma_data: float = 0.5

    def __call__(
        self, network: Network, schedule: AbstractSchedule, t: Scalar, x: Event, condition: Condition
    ) -> Event:
        alpha, sigma = schedule.alpha(t).astype(x.dtype), schedule.sigma(t).astype(x.dtype)
        std = jnp.sqrt((alpha * self.sigma_data) ** 2 + sigma**2)
        skip = alpha * (self.sigma_data / std) ** 2
        raw = network(-schedule.log_snr(t) / 8, x / std, condition)
        return skip * x + sigma * self.sigma_data / std * raw

    def singular_ends(self, schedule: AbstractSchedule) -> tuple[bool, bool]:
        return schedule.is_singular("log_snr", 0.0), schedule.is_singular("log_snr", 1.0)


class Converted(AbstractPrediction):
    """A network's output, converted on access by the table of `target`."""

    output: Event
    x: Event
    scales: Scales
    target: AbstractTarget
    has_score: bool = eqx.field(static=True)

    @property
    def data(self) -> Event:
        return self.target.data(self.output, self.x, self.scales)

    @property
    def noise(self) -> Event:
        return self.target.noise(self.output, self.x, self.scales)

    @property
    def velocity(self) -> Event:
        return self.target.velocity(self.output, self.x, self.scales)

    @property
    def score(self) -> Event:
        if not self.has_score:
            raise ValueError(_NO_SCORE)
        return self.target.score(self.output, self.x, self.scales)


_NO_SCORE = (
    "This model has no score: its coupling makes noise and data dependent; train with coupling=Independent() "
    "for the score, ReverseSDE, Langevin or guidance."
)


class Model(AbstractContinuousModel):
    """A trained, or trainable, network as a law."""

    network: Network
    interpolant: AbstractInterpolant
    target: AbstractTarget
    preconditioner: AbstractPreconditioner
    coupling: AbstractCoupling
    shape: Shape = eqx.field(static=True)
    dtype: DType = eqx.field(static=True)
    t_min: float = eqx.field(static=True)
    t_max: float = eqx.field(static=True)

    def __init__(
        self,
        network: Network,
        interpolant: AbstractInterpolant | AbstractSchedule,
        target: AbstractTarget | None = None,
        *,
        shape: Shape,
        preconditioner: AbstractPreconditioner | None = None,
        coupling: AbstractCoupling | None = None,
        dtype: DType | None = None,
        t_min: float | None = None,
        t_max: float | None = None,
    ):
        """**Arguments:**

        - `network`: `network(t, x, condition)` for one event `x`, a scalar `t` and one condition (or None).
        - `interpolant`: the path; a schedule stands for its affine path.
        - `target`: what the network predicts, the velocity without; `Data()` with an `EDMPreconditioner`.
        - `shape`: of one event.
        - `preconditioner`: scales the network's input and output.
        - `coupling`: how noise and data were, or will be, paired in training; independently without.
        - `dtype`: of events; that of the network's parameters without.
        - `t_min`, `t_max`: the interval of time; all of [0, 1] where it is finite for this schedule and target, else
            stopping short of a singular noise end by 1e-2 and of a singular data end by 1e-3. Raises `ValueError`
            outside [0, 1] or at a singular end.
        """
        self.network = network
        self.interpolant = Affine(interpolant) if isinstance(interpolant, AbstractSchedule) else interpolant
        self.target = Velocity() if target is None else target
        self.preconditioner = Unscaled() if preconditioner is None else preconditioner
        if isinstance(self.preconditioner, EDMPreconditioner) and not isinstance(self.target, Data):
            raise ValueError("EDMPreconditioner gives the data; pass target=Data() with it.")
        self.coupling = Independent() if coupling is None else coupling
        self.shape = tuple(shape)
        self.dtype = jnp.dtype(_network_dtype(network) if dtype is None else dtype)
        low, high = self._singular_ends()
        self.t_min = _end("t_min", t_min, 0.0, low, NOISE_MARGIN)
        self.t_max = _end("t_max", t_max, 1.0, high, 1 - TIME_MARGIN)
        check_interval(self.t_min, self.t_max)

    def _singular_ends(self) -> tuple[bool, bool]:
        by_target = self.target.singular_ends(self.schedule)
        by_network = self.preconditioner.singular_ends(self.schedule)
        return by_target[0] or by_network[0], by_target[1] or by_network[1]

    @property
    def schedule(self) -> AbstractSchedule:
        return self.interpolant.schedule

    @property
    def source(self) -> AbstractPrior:
        return self.source_at(self.t_min)

    @property
    def default_dynamics(self) -> AbstractDynamics:
        return ProbabilityFlow()

    @property
    def score_interval(self) -> tuple[float, float]:
        if not self.coupling.independent:
            raise ValueError(_NO_SCORE)
        vanishes = self.schedule.is_singular("log_snr", 1.0)
        return self.t_min, min(self.t_max, 1 - TIME_MARGIN) if vanishes else self.t_max

    def source_at(self, t: float) -> AbstractPrior:
        """The Gaussian of standard deviation `sigma(t)`; what is left of the data at `t` is neglected."""
        return Gaussian(self.shape, std=self.schedule.sigma(t), dtype=self.dtype)

    def output(self, t: Scalar, x: Event, condition: Condition = None, *, key: KeyArray | None = None) -> Event:
        """The network's output in the model's target, for one event; `key` is for dropout in training."""
        network = self.network
        if isinstance(network, AbstractNetwork):
            network = functools.partial(network, key=key)
        out = self.preconditioner(network, self.schedule, t, x, condition)
        check_shape("The network's output", out.shape, x.shape)
        return out

    def predict(self, t: Scalar, x: Event, condition: Condition = None) -> Converted:
        return Converted(
            self.output(t, x, condition),
            x,
            self.schedule.scales(t, x.dtype),
            self.target,
            self.coupling.independent,
        )


def _network_dtype(network: Network) -> DType:
    for leaf in jax.tree.leaves(eqx.filter(network, eqx.is_inexact_array)):
        return leaf.dtype
    return jnp.result_type(float)


def _end(name: str, given: float | None, end: float, singular: bool, stopped: float) -> float:
    if given is None:
        return stopped if singular else end
    if singular and given == end:
        raise ValueError(f"{name}={given} is singular for this schedule and target; use {stopped} or so.")
    return float(given)
