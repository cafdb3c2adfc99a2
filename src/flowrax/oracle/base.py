"""What an oracle is: a law whose every conditional expectation is known in closed form, and the exact model of it."""

import abc
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp

from .._typing import Array, Condition, DType, Event, KeyArray, Numbers, Scalar, Shape
from ..abstract import AbstractContinuousModel, AbstractDynamics, AbstractPrediction
from ..dynamics import ProbabilityFlow
from ..prior import AbstractPrior
from ..schedule import AbstractSchedule, Scales


class AbstractOracle(AbstractPrior):
    """A law of vectors `(d,)`, known exactly at every time of every affine interpolant."""

    @abc.abstractmethod
    def posterior_terms(self, alpha: Scalar, sigma: Scalar, x: Event) -> tuple[Array, Array, Array]:
        """Of `alpha x1 + sigma x0` at one event: log-density, expected data `(d,)`, score `(d,)`."""

    @abc.abstractmethod
    def scaled(self, alpha: Scalar, sigma: Scalar) -> "AbstractOracle":
        """The law of `alpha x1 + sigma x0`, again an oracle."""

    @abc.abstractmethod
    def posterior(self, operator: Numbers, y: Numbers, noise_covariance: Numbers) -> "AbstractOracle":
        """The law of `x` given `y = A x + noise`, again an oracle.

        **Arguments:**

        - `operator`: `A`, `(m, d)`.
        - `y`: `(m,)`.
        - `noise_covariance`: `(m, m)`.
        """

    @abc.abstractmethod
    def log_evidence(self, operator: Numbers, y: Numbers, noise_covariance: Numbers) -> Array:
        """Log-density of `y = A x + noise`; arguments as of [`posterior`][]."""

    def sample(self, key: KeyArray, shape: Shape = ()) -> Array:
        """Draws `(*shape, d)`."""
        size = 1
        for n in shape:
            size *= n
        return jax.vmap(self.draw)(jax.random.split(key, size)).reshape(*shape, *self.shape)

    def log_density(self, x: Event) -> Array:
        one = jnp.ones((), self.dtype)
        return self.posterior_terms(one, jnp.zeros_like(one), x)[0]

    def log_prob(self, x: Numbers) -> Array:
        """Log-density in nats of events `(..., d)`."""
        return _over_events(self.log_density, jnp.asarray(x, self.dtype))

    def marginal_log_prob(self, schedule: AbstractSchedule, t: Scalar, x: Numbers) -> Array:
        """Log-density in nats of the interpolant's law at time `t`, of events `(..., d)`."""
        alpha, sigma = schedule.alpha(t).astype(self.dtype), schedule.sigma(t).astype(self.dtype)
        return _over_events(lambda x: self.posterior_terms(alpha, sigma, x)[0], jnp.asarray(x, self.dtype))

    def model(self, schedule: AbstractSchedule, *, source: AbstractPrior | None = None) -> "OracleModel":
        """The exact model of this law, to be sampled and evaluated as any other.

        **Arguments:**

        - `schedule`: of the affine interpolant.
        - `source`: the law at `t = 0`; the exact marginal without, so that only the solver is left to blame.
        """
        return OracleModel(self, schedule, source)


class OraclePrediction(AbstractPrediction):
    """The exact data and score, from which the rest follows with nothing to divide by."""

    exact_data: Event
    exact_score: Event
    scales: Scales

    @property
    def data(self) -> Event:
        return self.exact_data

    @property
    def score(self) -> Event:
        return self.exact_score

    @property
    def noise(self) -> Event:
        return -self.scales.sigma * self.score

    @property
    def velocity(self) -> Event:
        return self.scales.alpha_rate * self.data - self.scales.variance_rate / 2 * self.score


class OracleModel(AbstractContinuousModel):
    """The exact velocity, score and denoiser of an oracle under a schedule, finite on all of [0, 1]."""

    oracle: AbstractOracle
    schedule: AbstractSchedule
    given_source: AbstractPrior | None
    shape: Shape = eqx.field(static=True)
    dtype: DType = eqx.field(static=True)
    t_min: float = eqx.field(static=True)
    t_max: float = eqx.field(static=True)

    def __init__(self, oracle: AbstractOracle, schedule: AbstractSchedule, source: AbstractPrior | None = None) -> None:
        """Arguments as of [`AbstractOracle.model`][]."""
        self.oracle, self.schedule, self.given_source = oracle, schedule, source
        self.shape, self.dtype = oracle.shape, oracle.dtype
        self.t_min, self.t_max = 0.0, 1.0

    @property
    def source(self) -> AbstractPrior:
        return self.source_at(self.t_min) if self.given_source is None else self.given_source

    def source_at(self, t: float) -> AbstractPrior:
        """The exact marginal at `t`."""
        dtype = self.dtype
        return self.oracle.scaled(self.schedule.alpha(t).astype(dtype), self.schedule.sigma(t).astype(dtype))

    @property
    def default_dynamics(self) -> AbstractDynamics:
        return ProbabilityFlow()

    @property
    def score_interval(self) -> tuple[float, float]:
        return self.t_min, self.t_max

    def predict(self, t: Scalar, x: Event, condition: Condition = None) -> OraclePrediction:
        scales = self.schedule.scales(t, x.dtype)
        _, data, score = self.oracle.posterior_terms(scales.alpha, scales.sigma, x)
        return OraclePrediction(data, score, scales)


def _over_events(function: Callable[[Event], Array], x: Array) -> Array:
    leading = x.shape[:-1]
    return jax.vmap(function)(x.reshape(-1, x.shape[-1])).reshape(leading)
