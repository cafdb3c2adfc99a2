r"""Rules that take the measurement to be Gaussian given the state, $p(y | x_t) \approx \mathcal{N}(A \hat x_1, S V S)$.

With $S = \operatorname{diag}(s)$, $B = S^{-1} A$, the residual $\rho = S^{-1} (y - A \hat x_1)$ and $V = I + M$, where
$M$ is the covariance of $B x_1$ that the rule assigns to $x_t$,

$$g = J^\top B^\top (I + M)^{-1} \rho, \qquad J = \frac{\partial \hat x_1}{\partial x}, \qquad
\log p(y | x_t) = -\tfrac12 \rho^\top (I + M)^{-1} \rho - \tfrac12 \log\det(I + M) - \sum_i \log s_i
- \tfrac m2 \log 2\pi.$$

The score is the gradient of the log-density with $M$ held fixed. In these units of the noise no eigenvalue of $I + M$
is below one, however small the noise: those of $M$ that a network or rounding makes negative count as zero.
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


class Denoised(eqx.Module):
    """The denoised data as the measurement sees it.

    **Attributes:**

    - `prediction`: of the model.
    - `operator`: $B$, `(m, d)`.
    - `residual`: $\\rho$, `(m,)`.
    - `pull_back`: maps $v$, `(m,)`, to $J^\\top B^\\top v$, of the shape of an event.
    """

    prediction: AbstractPrediction
    operator: Array
    residual: Array
    pull_back: Callable[[Array], Event]


def denoised(
    model: AbstractContinuousModel, observation: LinearGaussian, t: Scalar, x: Event, condition: Condition
) -> Denoised:
    """The denoised data at one event, evaluated once; arguments as for a guidance rule."""
    check_instance("observation", observation, LinearGaussian)
    noise = observation.noise_std.astype(x.dtype)
    operator = observation.operator.astype(x.dtype) / noise[:, None]

    def measured(x: Event) -> tuple[Array, AbstractPrediction]:
        prediction = model.predict(t, x, condition)
        return operator @ prediction.data.reshape(-1), prediction

    mean, pull_back, prediction = jax.vjp(measured, x, has_aux=True)
    residual = observation.y.astype(x.dtype) / noise - mean
    return Denoised(prediction, operator, residual, lambda v: pull_back(v)[0])


class GaussianLikelihood(eqx.Module):
    """The distribution of the measurement given the state, in units of the noise.

    **Attributes:**

    - `prediction`, `residual`, `pull_back`: of [`Denoised`][].
    - `covariance`: $M$, `(m, m)`.
    - `log_scale`: $\\sum_i \\log s_i$.
    """

    prediction: AbstractPrediction
    residual: Array
    pull_back: Callable[[Array], Event]
    covariance: Array
    log_scale: Array

    def score_and_log_density(self) -> tuple[Event, Array]:
        """The likelihood score, of the shape of an event, and the log-density of `y` in nats."""
        weighted, log_determinant = solve_clipped(self.covariance, self.residual)
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
        return likelihood.prediction, likelihood.score_and_log_density()[0]


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


@jax.custom_jvp
def solve_clipped(matrix: Float[Array, "m m"], right: Float[Array, " m"]) -> tuple[Array, Array]:
    r"""$(I + M_+)^{-1} b$ and $\log\det(I + M_+)$, where $M_+$ is `matrix` without its negative eigenvalues.

    Derivatives of the first order are finite for equal eigenvalues too. Those of the second order are if no eigenvalue
    is negative.
    """
    values, vectors = _eigen(matrix)
    values = jnp.maximum(values, 0)
    return vectors @ ((vectors.T @ right) / (1 + values)), jnp.sum(jnp.log1p(values))


def _eigen(matrix: Array) -> tuple[Array, Array]:
    """Eigenvalues and eigenvectors of a symmetric matrix; the values are NaN if any element is not finite."""
    # LAPACK may never return from a matrix of NaN.
    finite = jnp.all(jnp.isfinite(matrix))
    values, vectors = jnp.linalg.eigh(jnp.where(finite, (matrix + matrix.T) / 2, 0))
    return jnp.where(finite, values, jnp.nan), vectors


@solve_clipped.defjvp
def _solve_clipped_jvp(
    primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    matrix, right = primals
    change = _clipped_change(matrix, tangents[0])
    solution, log_determinant = solve_clipped(matrix, right)
    by_solution, _ = solve_clipped(matrix, tangents[1] - change @ solution)
    inverse_change, _ = jax.vmap(solve_clipped, in_axes=(None, 1))(matrix, change)
    return (solution, log_determinant), (by_solution, jnp.trace(inverse_change))


def _clipped_change(matrix: Array, change: Array) -> Array:
    r"""The derivative of $M_+$ in the direction `change`, by the divided differences of $\max(\lambda, 0)$."""
    change = (change + change.T) / 2
    symmetric = (matrix + matrix.T) / 2
    positive = jnp.min(_eigen(jax.lax.stop_gradient(symmetric))[0]) >= 0
    # Where nothing is clipped, the eigenvectors play no part, and their derivatives, which may be infinite, neither.
    apart = jnp.diag(jnp.arange(1, matrix.shape[0] + 1, dtype=matrix.dtype))
    values, vectors = _eigen(jnp.where(positive, apart, symmetric))
    kept = jnp.maximum(values, 0)
    gap = jnp.abs(values)[:, None] + jnp.abs(values)[None]
    of_one_sign = values[:, None] * values[None] >= 0
    both = ((values[:, None] > 0) | (values[None] > 0)).astype(matrix.dtype)
    split = (kept[:, None] + kept[None]) / jnp.where(of_one_sign, 1, gap)
    factors = jnp.where(of_one_sign, both, split)
    clipped = vectors @ (factors * (vectors.T @ change @ vectors)) @ vectors.T
    return jnp.where(positive, change, clipped)
