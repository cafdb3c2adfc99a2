r"""Rules that take the measurement to be Gaussian given the state, $p(y | x_t) \approx \mathcal{N}(A \hat x_1, S V S)$.

With $S = \operatorname{diag}(s)$, $B = S^{-1} A$, the residual $\rho = S^{-1} (y - A \hat x_1)$ and $V = I + M$, where
$M$ is the covariance of $B x_1$ that the rule assigns to $x_t$,

$$g = J^\top B^\top (I + M)^{-1} \rho, \qquad J = \frac{\partial \hat x_1}{\partial x}, \qquad
\log p(y | x_t) = -\tfrac12 \rho^\top (I + M)^{-1} \rho - \tfrac12 \log\det(I + M) - \sum_i \log s_i
- \tfrac m2 \log 2\pi.$$

The score is the gradient of the log-density with $M$ held fixed. In these units of the noise no eigenvalue of $I + M$
is below one, however small the noise. Networks and rounding give $M$ negative eigenvalues, since $\sigma^2 / \alpha$
amplifies the error of the Jacobian at early times. The density then adds a multiple of the identity to $M$; the score
of a rule solves with $M$ as it is.
"""

import abc
import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp

from .._base.checks import check_instance
from .._base.typing import Array, Condition, Event, Float, Scalar
from ..model.base import AbstractContinuousModel, AbstractPrediction
from ..observation import LinearGaussian
from .base import AbstractGuidance

# The shifts of an indefinite covariance, relative to its Frobenius norm; the last makes it positive for sure.
_SHIFTS = (0.0, *(4.0**-power for power in range(11, -1, -1)))


class Denoised(eqx.Module):
    r"""The denoised data as the measurement sees it.

    **Attributes:**

    - `prediction`: of the model.
    - `measure`: maps an event $x$ to $B x$, `(m,)`.
    - `residual`: $\rho$, `(m,)`.
    - `pull_back`: maps $v$, `(m,)`, to $J^\top B^\top v$, of the shape of an event.
    """

    prediction: AbstractPrediction
    measure: Callable[[Event], Array]
    residual: Array
    pull_back: Callable[[Array], Event]


def denoised(
    model: AbstractContinuousModel, observation: LinearGaussian, t: Scalar, x: Event, condition: Condition
) -> Denoised:
    """The denoised data at one event, evaluated once; arguments as for a guidance rule."""
    check_instance("observation", observation, LinearGaussian)
    noise = observation.noise_std.astype(x.dtype)

    def measure(x: Event) -> Array:
        return observation.apply(x).astype(noise.dtype) / noise

    def measured(x: Event) -> tuple[Array, AbstractPrediction]:
        prediction = model.predict(t, x, condition)
        return measure(prediction.data), prediction

    mean, pull_back, prediction = jax.vjp(measured, x, has_aux=True)
    residual = observation.y.astype(x.dtype) / noise - mean
    return Denoised(prediction, measure, residual, lambda v: pull_back(v)[0])


class GaussianLikelihood(eqx.Module):
    r"""The distribution of the measurement given the state, in units of the noise.

    **Attributes:**

    - `prediction`, `residual`, `pull_back`: of [`Denoised`][].
    - `covariance`: $M$, `(m, m)`.
    - `log_scale`: $\sum_i \log s_i$.
    """

    prediction: AbstractPrediction
    residual: Array
    pull_back: Callable[[Array], Event]
    covariance: Array
    log_scale: Array

    def score_and_log_density(self) -> tuple[Event, Array]:
        """The likelihood score, of the shape of an event, and the log-density of `y` in nats."""
        weighted, log_determinant = solve_positive(self.covariance, self.residual)
        constant = self.log_scale + 0.5 * self.residual.shape[0] * math.log(2 * math.pi)
        log_density = -0.5 * (self.residual @ weighted + log_determinant) - constant
        return self.pull_back(weighted), log_density


class AbstractGaussianGuidance(AbstractGuidance):
    """A guidance rule that gives the density of the measurement beside its score, as twisted particles need it."""

    @abc.abstractmethod
    def likelihood(
        self,
        model: AbstractContinuousModel,
        observation: LinearGaussian,
        t: Scalar,
        x: Event,
        condition: Condition,
    ) -> GaussianLikelihood:
        """The distribution of the measurement given one event `x` at time `t`; arguments as for the call."""

    def __call__(
        self,
        model: AbstractContinuousModel,
        observation: LinearGaussian,
        t: Scalar,
        x: Event,
        condition: Condition,
    ) -> tuple[AbstractPrediction, Event]:
        likelihood = self.likelihood(model, observation, t, x, condition)
        system = likelihood.covariance + jnp.eye(likelihood.residual.shape[0], dtype=x.dtype)
        return likelihood.prediction, likelihood.pull_back(jnp.linalg.solve(system, likelihood.residual))


def gaussian_likelihood(
    seen: Denoised,
    covariance: Array,
    observation: LinearGaussian,
    pull_back: Callable[[Array], Event] | None = None,
) -> GaussianLikelihood:
    """The record of a rule that takes `covariance`, `(m, m)`, for $M$; `pull_back` may be a cheaper one."""
    log_scale = jnp.sum(jnp.log(observation.noise_std.astype(covariance.dtype)))
    return GaussianLikelihood(
        seen.prediction, seen.residual, seen.pull_back if pull_back is None else pull_back, covariance, log_scale
    )


def solve_positive(matrix: Float[Array, "m m"], right: Float[Array, " m"]) -> tuple[Array, Array]:
    r"""$(I + M_c)^{-1} b$ and $\log\det(I + M_c)$, where $M_c = M + c I$ is the symmetric part of `matrix` with the
    smallest shift $c$ of a ladder for which $I + M_c$ is positive definite; zero if it is without.
    """
    # By Cholesky factors, not eigenvalues: jaxlib's batched eigh on CPU may deadlock inside a compiled loop.
    symmetric, one = (matrix + matrix.T) / 2, jnp.eye(matrix.shape[0], dtype=matrix.dtype)
    frozen = jax.lax.stop_gradient(symmetric)
    shifts = jnp.asarray(_SHIFTS, matrix.dtype) * jnp.sqrt(jnp.sum(frozen**2))
    factors = jnp.linalg.cholesky(frozen[None] + (1 + shifts)[:, None, None] * one[None])
    # With NaN in the matrix none is finite, and the first one is taken, which is NaN.
    first = jnp.argmax(jnp.all(jnp.isfinite(factors), axis=(1, 2)))
    factor = jnp.linalg.cholesky(symmetric + (1 + 4 * shifts[first]) * one)
    solution = jax.scipy.linalg.cho_solve((factor, True), right)
    return solution, 2 * jnp.sum(jnp.log(jnp.diagonal(factor)))
