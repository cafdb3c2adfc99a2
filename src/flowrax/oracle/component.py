r"""One Gaussian component $x_1 \sim \mathcal{N}(m, S)$ observed as $x_t = \alpha x_1 + \sigma x_0$, in closed form.

With $S = U \operatorname{diag}(e) U^\top$, $\tau_i^2 = \alpha^2 e_i + \sigma^2$, $w = U^\top (x - \alpha m) / \tau$:

$$\log p_t = -\tfrac12 \lVert w \rVert^2 - \sum_i \log \tau_i - \tfrac{D}{2} \log 2\pi, \qquad
\nabla \log p_t = -U \frac{w}{\tau}, \qquad
\mathbb{E}[x_1 | x_t] = m + U\, \frac{\alpha e}{\tau}\, w.$$

The formulas use standard deviations instead of variances, so that nothing underflows as $\sigma \to 0$, and never
divide by $\alpha$ or $\sigma$, so that all three hold at both ends of time.
"""

import math

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from .._base.arrays import as_numbers
from .._base.checks import check_shape, is_traced
from .._base.typing import Array, DType, Event, Numbers, Scalar


class Component(eqx.Module):
    """Mean and eigendecomposed covariance of a Gaussian in `d` dimensions."""

    mean: Array
    eigenvalues: Array
    eigenvectors: Array

    def posterior_terms(self, alpha: Scalar, sigma: Scalar, x: Event) -> tuple[Array, Array, Array]:
        """The log-density (a scalar), the denoised data `(d,)` and the score `(d,)` at `x`."""
        tau = jnp.hypot(alpha * jnp.sqrt(self.eigenvalues), jnp.asarray(sigma))
        w = (self.eigenvectors.T @ (x - alpha * self.mean)) / tau
        log_density = -0.5 * jnp.sum(w**2) - jnp.sum(jnp.log(tau)) - 0.5 * x.shape[-1] * math.log(2 * math.pi)
        data = self.mean + self.eigenvectors @ (alpha * self.eigenvalues / tau * w)
        return log_density, data, -(self.eigenvectors @ (w / tau))

    def covariance(self) -> Array:
        """The covariance, `(d, d)`."""
        return (self.eigenvectors * self.eigenvalues[None, :]) @ self.eigenvectors.T

    def scaled(self, alpha: Scalar, sigma: Scalar) -> "Component":
        r"""The component of $\alpha x_1 + \sigma x_0$, which has the same eigenvectors."""
        alpha, sigma = jnp.asarray(alpha), jnp.asarray(sigma)
        return Component(alpha * self.mean, alpha**2 * self.eigenvalues + sigma**2, self.eigenvectors)

    def mapped(self, matrix: Array, offset: Array) -> "Component":
        """The component of `matrix @ x1 + offset`, for a matrix `(k, d)` and an offset `(k,)`."""
        return component_of(matrix @ self.mean + offset, matrix @ self.covariance() @ matrix.T)

    def transform(self, noise: Array) -> Array:
        """Transforms standard normal noise `(d,)` into a draw of the component."""
        return self.mean + (noise * jnp.sqrt(self.eigenvalues)) @ self.eigenvectors.T

    @eqx.filter_jit
    def condition(self, operator: Array, y: Array, noise_covariance: Array) -> tuple[Array, Array, Array]:
        """The log-evidence of `y = A x + noise` and the posterior mean and covariance of `x` (Kalman update in Joseph
        form).
        """
        covariance = self.covariance()
        predicted = operator @ covariance @ operator.T + noise_covariance
        residual = y - operator @ self.mean
        gain = jnp.linalg.solve(predicted, operator @ covariance).T
        left = jnp.eye(self.mean.shape[0], dtype=self.mean.dtype) - gain @ operator
        updated = left @ covariance @ left.T + gain @ noise_covariance @ gain.T
        return _log_normal(residual, predicted), self.mean + gain @ residual, updated


@eqx.filter_jit
def component_of(mean: Array, covariance: Array) -> Component:
    """Eigendecomposes a covariance `(d, d)`; eigenvalues that rounding made negative are set to zero."""
    eigenvalues, eigenvectors = jnp.linalg.eigh((covariance + covariance.T) / 2)
    return Component(mean, jnp.maximum(eigenvalues, 0), eigenvectors)


def check_covariance(name: str, covariance: Array) -> None:
    """Raises `ValueError` for a concrete covariance, `(..., d, d)`, that is not symmetric positive semi-definite."""
    if is_traced(covariance):
        return
    matrix = np.asarray(covariance, np.float64)
    transposed, size = np.swapaxes(matrix, -1, -2), np.max(np.abs(matrix), initial=0.0)
    # Numbers of any precision may have been computed in single precision.
    rounding = 1e-5 * size
    if not np.all(np.abs(matrix - transposed) <= rounding):
        raise ValueError(
            f"{name} must be symmetric; it differs from its transpose by up to "
            f"{np.max(np.abs(matrix - transposed)):.3g}."
        )
    smallest = np.min(np.linalg.eigvalsh((matrix + transposed) / 2), initial=np.inf)
    if smallest < -rounding:
        raise ValueError(f"{name} has a negative eigenvalue, {smallest:.3g}; it must be positive semi-definite.")


def check_observation(
    operator: Numbers, y: Numbers, noise_covariance: Numbers, size: int, dtype: DType
) -> tuple[Array, Array, Array]:
    """The three arguments as arrays of `dtype`; raises `ValueError` unless they are `(m, d)`, `(m,)` and `(m, m)`."""
    a, b, c = (
        as_numbers(name, value, dtype)
        for name, value in (("operator", operator), ("y", y), ("noise_covariance", noise_covariance))
    )
    if a.ndim != 2:
        raise ValueError(f"operator has shape {a.shape} but (m, {size}) is expected.")
    check_shape("operator", a.shape, (a.shape[0], size))
    check_shape("y", b.shape, (a.shape[0],))
    check_shape("noise_covariance", c.shape, (a.shape[0], a.shape[0]))
    return a, b, c


def _log_normal(residual: Array, covariance: Array) -> Array:
    factor = jnp.linalg.cholesky(covariance)
    z = jnp.linalg.solve(factor, residual)
    size = residual.shape[0]
    log_determinant = jnp.sum(jnp.log(jnp.diagonal(factor)))
    return -0.5 * jnp.sum(z**2) - log_determinant - 0.5 * size * math.log(2 * math.pi)
