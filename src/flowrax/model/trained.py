r"""A network with its interpolant, prior and target: one network output gives data, noise, velocity and score.

For $x_0 \sim \mathcal{N}(m, C)$ the noise prediction $n$ gives the score $-C^{-1} (n - m) / \sigma$. If $C$ is
singular, the model stays in the range of $C$, because the network's output is projected onto it.
"""

import equinox as eqx
import jax
import jax.numpy as jnp

from .._base.arrays import float_dtype
from .._base.checks import check_event_shape, check_interval, check_shape, is_traced
from .._base.typing import Condition, DType, Event, KeyArray, Network, Scalar, Shape
from ..coupling import AbstractCoupling, Independent
from ..interpolant import AbstractInterpolant, Affine, Latent
from ..prior import AbstractPrior, Gaussian, bind_condition, blurred, check_prior, project, rescaled
from ..schedule import AbstractSchedule, Scales
from .base import NOISE_MARGIN, TIME_MARGIN, AbstractContinuousModel, AbstractPrediction
from .network import AbstractAverageVelocity, AbstractTimelessNetwork, as_output, with_key
from .preconditioner import AbstractPreconditioner, EDMPreconditioner, Unscaled
from .prediction import (
    TIMELESS,
    VELOCITY_ONLY,
    AffinePrediction,
    LatentPrediction,
    check_latent,
    conditional_score,
    gaussian_or_raise,
    latent_ends,
)
from .target import AbstractTarget, Data, LatentNoise as LatentTarget, Score, Velocity


class Model(AbstractContinuousModel):
    """A generative model defined by a trained or trainable network."""

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
        - `interpolant`: the path. A schedule stands for its affine path.
        - `target`: the quantity that the network predicts. Default: `Velocity()`. On a path with a latent the target is
            the velocity, `target.LatentNoise()` or the score, and [`Bridge`][] combines two such models. With an
            `EDMPreconditioner` it must be `Data()`.
        - `shape`: the shape of one event.
        - `preconditioner`: scales the network's input and output. Default: `Unscaled()`.
        - `coupling`: how noise and data are paired in training. Default: `Independent()`.
        - `prior`: the distribution of $x_0$, from which `fit` draws but which it does not train. Default: standard
            normal. A model whose prior is not Gaussian has no score. If the covariance is singular (centred points, a
            harmonic chain), events and predictions are projected onto its range, and densities are taken on it.
        - `dtype`: the dtype of events. Default: the dtype of the network's parameters.
        - `t_min`, `t_max`: the time interval. Default: [0, 1], less 1e-2 at the noise end and 1e-3 at the data end if
            this schedule and target are singular there. Raises `ValueError` outside [0, 1] and at a singular end.

        Raises `ValueError` if the prior has another shape or dtype, or if the target does not fit the path, the prior,
        the coupling or the preconditioner.
        """
        self.network = network
        self.interpolant = Affine(interpolant) if isinstance(interpolant, AbstractSchedule) else interpolant
        self.target = Velocity() if target is None else target
        self.preconditioner = Unscaled() if preconditioner is None else preconditioner
        self.coupling = Independent() if coupling is None else coupling
        if isinstance(self.preconditioner, EDMPreconditioner) and not isinstance(self.target, Data):
            raise ValueError("EDMPreconditioner predicts the data; pass target=Data() with it.")
        self.shape = check_event_shape(shape)
        self.dtype = float_dtype(network_dtype(network) if dtype is None else dtype)
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
        """Raises `ValueError` if the target is the score but the model has none."""
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
    def score_interval(self) -> tuple[float, float]:
        if isinstance(self.network, AbstractTimelessNetwork):
            raise ValueError(TIMELESS)
        if self.interpolant.gamma is None:
            gaussian_or_raise(self.prior, independent=self.coupling.independent)
        elif isinstance(self.target, Velocity):
            raise ValueError(VELOCITY_ONLY)
        low, high = data_interval(self)
        vanishes = 1.0 in self.schedule.singularities.log_snr
        return low, min(high, 1 - TIME_MARGIN) if vanishes else high

    def source_at(self, t: Scalar) -> AbstractPrior:
        """The distribution of `sigma(t) x0`, plus the latent if any. The contribution of the data is neglected."""
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
        """The network's output, in terms of the model's target, for one event. `key` is for dropout in training.

        If `network` is given, it is called instead of the model's network. Losses that use hidden features pass it.
        Raises `ValueError` if the output does not have the shape of `x`.
        """
        keyed = with_key(self.network if network is None else network, key)
        out = as_output(self.preconditioner(keyed, self.schedule, t, x, condition), x.dtype)
        check_shape("The network's output", out.shape, x.shape)
        return self._project(out, condition)

    def _project(self, x: Event, condition: Condition) -> Event:
        # With a latent the state is not confined to the range of the prior.
        return project(bind_condition(self.prior, condition), x) if self.interpolant.gamma is None else x

    def regression_target(self, x0: Event, x1: Event, scales: Scales, t: Scalar | None = None) -> Event:
        """The regression target of the output, given a draw of noise and data. Paths with a latent also need `t`."""
        if isinstance(self.interpolant, Latent):
            assert t is not None, "a path with a latent needs the time"
            if isinstance(self.target, Velocity):
                return self.interpolant.velocity(t, x0, x1).astype(x1.dtype)
            return (
                x0[1] if isinstance(self.target, LatentTarget) else -x0[1] / self.interpolant.gamma(t).astype(x1.dtype)
            )
        if isinstance(self.target, Score):
            return conditional_score(gaussian_or_raise(self.prior, independent=True), x0, scales)
        return self.target.from_pair(x1, x0, scales)

    def predict(self, t: Scalar, x: Event, condition: Condition = None) -> AbstractPrediction:
        x, prior = self._project(x, condition), bind_condition(self.prior, condition)
        scales, output = self.schedule.scales(t, x.dtype), self.output(t, x, condition)
        if self.interpolant.gamma is not None:
            return LatentPrediction(output, self.target, self.interpolant.gamma(t).astype(x.dtype))
        timeless = isinstance(self.network, AbstractTimelessNetwork)
        return AffinePrediction(output, x, scales, self.target, prior, self.coupling.independent, timeless)


def data_interval(model: AbstractContinuousModel) -> tuple[float, float]:
    """The time interval on which the data prediction is finite.

    A velocity does not determine the data where the determinant of the schedule vanishes.

    **Arguments:**

    - `model`: any model of continuous events. The result differs from `[t_min, t_max]` only for a [`Model`][] with
        target `Velocity()` on an affine path.

    **Returns:** start and end of the interval.
    """
    low, high = model.t_min, model.t_max
    if isinstance(model, Model) and model.is_affine and isinstance(model.target, Velocity):
        low = max(low, NOISE_MARGIN) if 0.0 in model.schedule.singularities.determinant else low
        high = min(high, 1 - TIME_MARGIN) if 1.0 in model.schedule.singularities.determinant else high
    return low, high


def check_data_prediction(model: AbstractContinuousModel, caller: str, start: Scalar, end: Scalar) -> None:
    """Raises `ValueError` if the data prediction is infinite at `start` or `end`. `caller` is named in the message."""
    low, high = data_interval(model)
    if low <= start and end <= high:
        return
    t, mend = (start, f"t_min={low}") if start < low else (end, f"t_max={high}")
    raise ValueError(
        f"{caller} needs the data prediction at t={t}, where a velocity on {type(model.schedule).__name__} does not "
        f"determine it; give the model {mend}, or another target."
    )


def average_velocity(model: Model) -> AbstractAverageVelocity:
    """The network of a model of the average velocity. Raises `ValueError` for any other model."""
    plain = isinstance(model.preconditioner, Unscaled) and isinstance(model.target, Velocity)
    if not isinstance(model.network, AbstractAverageVelocity) or not plain:
        raise ValueError(
            "The model has no average velocity; build it as Model(nn.AverageVelocity(network), schedule), with the "
            "target Velocity() and no preconditioner."
        )
    return model.network


def network_dtype(network: Network) -> DType:
    """The dtype of a network's parameters.

    **Arguments:**

    - `network`: any network.

    **Returns:** the dtype of the first floating array in the network (that of its parts if it is complex), or JAX's
        default floating dtype if it has none.
    """
    for leaf in jax.tree.leaves(eqx.filter(network, eqx.is_inexact_array)):
        return jnp.finfo(leaf.dtype).dtype
    return jnp.result_type(float)


def _end(name: str, given: float | None, end: float, singular: bool, stopped: float) -> float:
    if given is None:
        return stopped if singular else end
    if singular and given == end:
        raise ValueError(f"This schedule and target are singular at {name}={given}; use for example {stopped}.")
    return float(given)
