r"""A network with its interpolant, prior and target: one network output gives data, noise, velocity and score.

For $x_0 \sim \mathcal{N}(m, C)$ the noise prediction $n$ gives the score $-C^{-1} (n - m) / \sigma$; where $C$ is
singular the model stays in its range, whatever the network says.
"""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp

from ._checks import check_interval, check_shape, is_traced
from ._typing import Condition, DType, Event, KeyArray, Network, Scalar, Shape
from .abstract import (
    NOISE_MARGIN,
    TIME_MARGIN,
    AbstractContinuousModel,
    AbstractPrediction,
    AbstractTimelessNetwork,
    call_network,
)
from .coupling import AbstractCoupling, Independent
from .interpolant import AbstractInterpolant, Affine, Latent
from .preconditioner import AbstractPreconditioner, EDMPreconditioner, Unscaled
from .prediction import (
    TIMELESS,
    VELOCITY_ONLY,
    Converted,
    LatentPrediction,
    check_latent,
    conditional_score,
    gaussian_or_raise,
    latent_ends,
)
from .prior import AbstractPrior, Gaussian, blurred, check_prior, given, project, rescaled
from .schedule import AbstractSchedule, Scales
from .target import AbstractTarget, Data, Latent as LatentTarget, Score, Velocity


class Model(AbstractContinuousModel):
    """A trained, or trainable, network as a law."""

    network: Network
    interpolant: AbstractInterpolant
    target: AbstractTarget
    preconditioner: AbstractPreconditioner
    coupling: AbstractCoupling
    prior: AbstractPrior
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
        prior: AbstractPrior | None = None,
        dtype: DType | None = None,
        t_min: float | None = None,
        t_max: float | None = None,
    ):
        """**Arguments:**

        - `network`: `network(t, x, condition)` for one event `x`, a scalar `t` and one condition (or None).
        - `interpolant`: the path; a schedule stands for its affine path.
        - `target`: what the network predicts, the velocity without (for a path with a latent that, `target.Latent()` or
            the score, each to be joined with another by [`Bridge`][]); `Data()` with an `EDMPreconditioner`.
        - `shape`: of one event.
        - `preconditioner`: scales the network's input and output.
        - `coupling`: how noise and data were, or will be, paired in training; independently without.
        - `prior`: the law of $x_0$, standard normal without; `fit` draws from it and never trains it. Without a
            Gaussian one there is no score. Where its covariance is singular (centred points, a harmonic
            chain) what leaves its range is projected out of events and predictions, and densities are on it.
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
        self.dtype = jnp.dtype(network_dtype(network) if dtype is None else dtype)
        self.prior = Gaussian(self.shape, dtype=self.dtype) if prior is None else prior
        check_prior(self.prior, self.shape, self.dtype)
        if self.interpolant.gamma is not None:
            check_latent(self.target)
        self.check_score()
        low, high = self._singular_ends()
        self.t_min = _end("t_min", t_min, 0.0, low, NOISE_MARGIN)
        self.t_max = _end("t_max", t_max, 1.0, high, 1 - TIME_MARGIN)
        check_interval(self.t_min, self.t_max)

    def check_score(self) -> None:
        """Raises `ValueError` where the target is a score that the model does not have."""
        if self.interpolant.gamma is None and isinstance(self.target, Score):
            gaussian_or_raise(self.prior, independent=self.coupling.independent)

    def _singular_ends(self) -> tuple[bool, bool]:
        if self.interpolant.gamma is not None:
            by_target = latent_ends(self.target, self.schedule, self.interpolant.gamma)
        else:
            by_target = self.target.singular_ends(self.schedule)
        by_network = self.preconditioner.singular_ends(self.schedule)
        return by_target[0] or by_network[0], by_target[1] or by_network[1]

    @property
    def schedule(self) -> AbstractSchedule:
        return self.interpolant.schedule

    @property
    def is_affine(self) -> bool:
        return self.interpolant.gamma is None

    @property
    def source(self) -> AbstractPrior:
        return self.source_at(self.t_min)

    @property
    def _timeless(self) -> bool:
        return isinstance(self.network, AbstractTimelessNetwork)

    @property
    def score_interval(self) -> tuple[float, float]:
        if self._timeless:
            raise ValueError(TIMELESS)
        if self.interpolant.gamma is None:
            gaussian_or_raise(self.prior, independent=self.coupling.independent)
        elif isinstance(self.target, Velocity):
            raise ValueError(VELOCITY_ONLY)
        low, high = data_interval(self)
        vanishes = self.schedule.is_singular("log_snr", 1.0)
        return low, min(high, 1 - TIME_MARGIN) if vanishes else high

    def source_at(self, t: Scalar) -> AbstractPrior:
        """The law of `sigma(t) x0`, and of the latent at `t`; what is left of the data at `t` is neglected."""
        start, gamma = rescaled(self.prior, self.schedule.sigma(t)), self.interpolant.gamma
        at_start = not is_traced(t) and t == 0
        return start if gamma is None or (gamma.vanishes and at_start) else blurred(start, gamma(t))

    def output(
        self,
        t: Scalar,
        x: Event,
        condition: Condition = None,
        *,
        key: KeyArray | None = None,
        network: Network | None = None,
    ) -> Event:
        """The network's output in the model's target, for one event; `key` is for dropout in training.

        `network` is called instead of the model's own, by a loss that looks inside.
        """
        network = functools.partial(call_network, self.network if network is None else network, key=key)
        out = self.preconditioner(network, self.schedule, t, x, condition)
        check_shape("The network's output", out.shape, x.shape)
        return self._project(out, condition)

    def _project(self, x: Event, condition: Condition) -> Event:
        # A latent leaves the range of whatever prior.
        return project(given(self.prior, condition), x) if self.interpolant.gamma is None else x

    def regressand(self, x0: Event, x1: Event, scales: Scales, t: Scalar | None = None) -> Event:
        """What the output is regressed on, given a draw of noise and data; a path with a latent needs `t` too."""
        if isinstance(self.interpolant, Latent):
            assert t is not None, "a path with a latent needs the time"
            if isinstance(self.target, Velocity):
                return self.interpolant.velocity(t, x0, x1).astype(x1.dtype)
            return (
                x0[1] if isinstance(self.target, LatentTarget) else -x0[1] / self.interpolant.gamma(t).astype(x1.dtype)
            )
        if isinstance(self.target, Score):
            return conditional_score(gaussian_or_raise(self.prior, independent=True), x0, scales)
        return self.target.of(x1, x0, scales)

    def predict(self, t: Scalar, x: Event, condition: Condition = None) -> AbstractPrediction:
        x, prior = self._project(x, condition), given(self.prior, condition)
        scales, output = self.schedule.scales(t, x.dtype), self.output(t, x, condition)
        if self.interpolant.gamma is not None:
            return LatentPrediction(output, self.target, self.interpolant.gamma(t).astype(x.dtype))
        return Converted(output, x, scales, self.target, prior, self.coupling.independent, self._timeless)


def data_interval(model: AbstractContinuousModel) -> tuple[float, float]:
    """Where the data prediction is finite: a velocity does not give it where the schedule's determinant vanishes.

    **Arguments:**

    - `model`: any; only a [`Model`][] of a velocity on an affine path has less than its own interval.

    **Returns:** start and end.
    """
    low, high = model.t_min, model.t_max
    if isinstance(model, Model) and model.is_affine and isinstance(model.target, Velocity):
        low = max(low, NOISE_MARGIN) if model.schedule.is_singular("determinant", 0.0) else low
        high = min(high, 1 - TIME_MARGIN) if model.schedule.is_singular("determinant", 1.0) else high
    return low, high


def check_data(model: AbstractContinuousModel, who: str, start: Scalar, end: Scalar) -> None:
    """Raises `ValueError` where the data prediction is infinite at `start` or `end`, at which `who` needs it."""
    low, high = data_interval(model)
    if low <= start and end <= high:
        return
    t, mend = (start, f"t_min={low}") if start < low else (end, f"t_max={high}")
    raise ValueError(
        f"{who} needs the data at t={t}, where a velocity on {type(model.schedule).__name__} does not give it; "
        f"give the model {mend}, or another target."
    )


def network_dtype(network: Network) -> DType:
    """The dtype of a network's parameters.

    **Arguments:**

    - `network`: any.

    **Returns:** JAX's default for a network without.
    """
    for leaf in jax.tree.leaves(eqx.filter(network, eqx.is_inexact_array)):
        return leaf.dtype
    return jnp.result_type(float)


def _end(name: str, given: float | None, end: float, singular: bool, stopped: float) -> float:
    if given is None:
        return stopped if singular else end
    if singular and given == end:
        raise ValueError(f"{name}={given} is singular for this schedule and target; use {stopped} or so.")
    return float(given)
