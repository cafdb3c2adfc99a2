"""The interface of oracles: distributions with closed-form conditional expectations, and their exact models."""

import abc
import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from .._base.arguments import checked
from .._base.arrays import as_numbers
from .._base.random import as_threefry
from .._base.typing import Array, Condition, DType, Event, KeyLike, Numbers, Scalar, Shape
from ..model.base import AbstractContinuousModel, AbstractPrediction
from ..prior import AbstractGaussianPrior, AbstractPrior, Gaussian, check_prior
from ..schedule import AbstractSchedule, Scales
from .coordinates import Coordinates, Mapped, whitening


class AbstractOracle(AbstractPrior):
    """A distribution of vectors `(d,)` whose marginals are known exactly at every time of every affine interpolant."""

    @abc.abstractmethod
    def posterior_terms(self, alpha: Scalar, sigma: Scalar, x: Event) -> tuple[Array, Array, Array]:
        """The log-density of `alpha x1 + sigma x0` at one event, the posterior mean of the data `(d,)`, and the score
        `(d,)`.
        """

    @abc.abstractmethod
    def scaled(self, alpha: Scalar, sigma: Scalar) -> "AbstractOracle":
        """The distribution of `alpha x1 + sigma x0`, again an oracle."""

    @abc.abstractmethod
    def mapped(self, matrix: Array, offset: Array) -> "AbstractOracle":
        """The distribution of `matrix @ x1 + offset` for a matrix `(k, d)` and an offset `(k,)`, again an oracle."""

    @abc.abstractmethod
    def posterior(self, operator: Numbers, y: Numbers, noise_covariance: Numbers) -> "AbstractOracle":
        """The distribution of `x` given `y = A x + noise`, again an oracle.

        **Arguments:**

        - `operator`: the matrix `A`, `(m, d)`.
        - `y`: the observation, `(m,)`.
        - `noise_covariance`: the covariance of the noise, `(m, m)`.

        **Raises:** `ValueError` for arrays of other shapes.
        """

    @abc.abstractmethod
    def log_evidence(self, operator: Numbers, y: Numbers, noise_covariance: Numbers) -> Array:
        """The log-density of `y = A x + noise`, in nats; arguments as in [`posterior`][]."""

    @checked
    def sample(self, key: KeyLike, shape: Shape = ()) -> Array:
        """Draws `(*shape, d)`."""
        keys = jax.random.split(as_threefry(key), math.prod(shape))
        return _draws(self, keys).reshape(*shape, *self.shape)

    @property
    def rank(self) -> int:
        return math.prod(self.shape)

    def log_density(self, x: Event) -> Array:
        one = jnp.ones((), self.dtype)
        return self.posterior_terms(one, jnp.zeros_like(one), x)[0]

    @checked
    def log_prob(self, x: Numbers) -> Array:
        """The log-density of events `(..., d)`, in nats."""
        return _log_densities(self, self._events(x))

    @checked
    def marginal_log_prob(self, schedule: AbstractSchedule, t: Scalar, x: Numbers) -> Array:
        """The log-density of events `(..., d)` under the interpolant's marginal at time `t`, in nats."""
        alpha, sigma = schedule.alpha(t).astype(self.dtype), schedule.sigma(t).astype(self.dtype)
        return _marginal_log_densities(self, alpha, sigma, self._events(x))

    def _events(self, x: Numbers) -> Array:
        """Events `(..., d)` as an array of the oracle's dtype."""
        events = as_numbers("x", x, self.dtype)
        if events.shape[-1:] != self.shape:
            raise ValueError(f"x has shape {events.shape} but (..., {self.shape[0]}) is expected.")
        return events

    @checked
    def model(
        self,
        schedule: AbstractSchedule,
        *,
        source: AbstractPrior | None = None,
        prior: AbstractGaussianPrior | None = None,
    ) -> "OracleModel":
        """The exact model of this distribution, sampled and evaluated like any other model.

        **Arguments:**

        - `schedule`: the schedule of the affine interpolant.
        - `source`: the distribution at `t = 0`. Default: the exact marginal, so that the solver is the only source of
            error.
        - `prior`: the distribution of the noise. Its events are the oracle's `(d,)` reshaped, and are the events of the
            model. Default: standard normal.

        **Raises:** `ValueError` if the prior is singular and the oracle does not lie in its range.
        """
        return OracleModel(self, schedule, source, prior)


# Compiled, because one program runs faster than its many small operations, and compiles faster than they do.
@eqx.filter_jit
def _draws(oracle: AbstractOracle, keys: Array) -> Array:
    return jax.vmap(oracle.draw)(keys)


@eqx.filter_jit
def _log_densities(oracle: AbstractOracle, x: Array) -> Array:
    return jnp.vectorize(oracle.log_density, signature="(d)->()")(x)


@eqx.filter_jit
def _marginal_log_densities(oracle: AbstractOracle, alpha: Array, sigma: Array, x: Array) -> Array:
    return jnp.vectorize(lambda x: oracle.posterior_terms(alpha, sigma, x)[0], signature="(d)->()")(x)


class OraclePrediction(AbstractPrediction):
    """The exact posterior mean of the data and score, from which noise and velocity follow without any division."""

    exact_data: Event
    exact_score: Event
    scales: Scales
    prior: AbstractGaussianPrior

    @property
    def _scaled_score(self) -> Event:
        return self.score if self.prior.is_standard else self.prior.covariance_product(self.score)

    @property
    def _mean(self) -> Event:
        return self.prior.mean.astype(self.score.dtype)

    @property
    def data(self) -> Event:
        return self.exact_data

    @property
    def score(self) -> Event:
        return self.exact_score

    @property
    def noise(self) -> Event:
        noise = -self.scales.sigma * self._scaled_score
        return noise if self.prior.is_standard else self._mean + noise

    @property
    def velocity(self) -> Event:
        s = self.scales
        flow = s.alpha_rate * self.data - s.variance_rate / 2 * self._scaled_score
        if self.prior.is_standard:
            return flow
        # The rate may be infinite, and 0 times infinity is NaN: skip it where the mean is zero.
        return flow + jnp.where(self._mean == 0, 0, s.sigma_rate) * self._mean


class OracleModel(AbstractContinuousModel):
    """The exact velocity, score and denoiser of an oracle under a schedule, finite on all of [0, 1].

    With a prior other than the standard normal, the oracle is transformed to coordinates in which the prior is
    standard.
    """

    oracle: AbstractOracle
    schedule: AbstractSchedule
    prior: AbstractGaussianPrior
    given_source: AbstractPrior | None
    coordinates: Coordinates | None
    shape: Shape = eqx.field(static=True)
    dtype: DType = eqx.field(static=True)
    t_min: float = eqx.field(static=True)
    t_max: float = eqx.field(static=True)
    is_affine: ClassVar[bool] = True

    def __init__(
        self,
        oracle: AbstractOracle,
        schedule: AbstractSchedule,
        source: AbstractPrior | None = None,
        prior: AbstractGaussianPrior | None = None,
    ) -> None:
        """Arguments as in [`AbstractOracle.model`][]."""
        self.schedule, self.given_source = schedule, source
        self.prior = Gaussian(oracle.shape, dtype=oracle.dtype) if prior is None else prior
        self.coordinates = None if self.prior.is_standard else whitening(self.prior)
        self.oracle = oracle
        if self.coordinates is not None:
            check_prior(self.prior, self.prior.shape, oracle.dtype)
            self.oracle = self.coordinates.whiten(oracle)
        self.shape, self.dtype = self.prior.shape, oracle.dtype
        self.t_min, self.t_max = 0.0, 1.0

    @property
    def source(self) -> AbstractPrior:
        return self.source_at(self.t_min) if self.given_source is None else self.given_source

    def source_at(self, t: Scalar) -> AbstractPrior:
        """The exact marginal at `t`."""
        alpha, sigma = self.schedule.alpha(t).astype(self.dtype), self.schedule.sigma(t).astype(self.dtype)
        marginal = self.oracle.scaled(alpha, sigma)
        return marginal if self.coordinates is None else Mapped(marginal, self.coordinates, sigma * self.prior.mean)

    @property
    def score_interval(self) -> tuple[float, float]:
        return self.t_min, self.t_max

    def predict(self, t: Scalar, x: Event, condition: Condition = None) -> OraclePrediction:
        scales, axes = self.schedule.scales(t, x.dtype), self.coordinates
        y = x if axes is None else axes.inward(x - scales.sigma * self.prior.mean)
        _, data, score = self.oracle.posterior_terms(scales.alpha, scales.sigma, y)
        if axes is not None:
            data, score = axes.outward(data), axes.pull_back(score)
        return OraclePrediction(data, score, scales, self.prior)
