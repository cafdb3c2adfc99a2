r"""The oracle $x_1 \sim \mathcal{N}(m, S)$, whose probability flow also has a closed form.

The flow keeps $w = U^\top (x_t - \alpha m) / \tau(t)$ constant, with $S = U \operatorname{diag}(e) U^\top$ and
$\tau_i^2 = \alpha^2 e_i + \sigma^2$.
"""

import equinox as eqx
import jax
import jax.numpy as jnp

from .._base.checks import as_floats, check_finite, check_shape
from .._base.typing import Array, DType, Event, KeyArray, Numbers, Scalar, Shape
from ..schedule import AbstractSchedule
from .base import AbstractOracle
from .component import Component, check_covariance, check_observation, component_of


class Gaussian(AbstractOracle):
    """A Gaussian with a full covariance.

    `log_prob`, `marginal_log_prob` and `flow` take events `(..., d)` with any leading axes.
    """

    component: Component

    def __init__(self, mean: Numbers, covariance: Numbers):
        """**Arguments:**

        - `mean`: the mean, `(d,)`.
        - `covariance`: the covariance, `(d, d)`, positive semi-definite.

        **Raises:** `ValueError` for inconsistent shapes, NaN or infinity.
        """
        mean, covariance = as_floats(mean, covariance)
        if mean.ndim != 1:
            raise ValueError(f"mean has shape {mean.shape} but (d,) is expected.")
        check_shape("covariance", covariance.shape, (mean.shape[0], mean.shape[0]))
        check_finite("mean", mean)
        check_finite("covariance", covariance)
        check_covariance("covariance", covariance)
        self.component = component_of(mean, covariance)

    @property
    def shape(self) -> Shape:
        return self.component.mean.shape

    @property
    def dtype(self) -> DType:
        return self.component.mean.dtype

    @property
    def mean(self) -> Array:
        """The mean, `(d,)`."""
        return self.component.mean

    @property
    def covariance(self) -> Array:
        """The covariance, `(d, d)`."""
        return self.component.covariance()

    def posterior_terms(self, alpha: Scalar, sigma: Scalar, x: Event) -> tuple[Array, Array, Array]:
        return self.component.posterior_terms(alpha, sigma, x)

    def draw(self, key: KeyArray) -> Event:
        return self.component.transform(jax.random.normal(key, self.shape, self.dtype))

    def scaled(self, alpha: Scalar, sigma: Scalar) -> "Gaussian":
        component = self.component.scaled(alpha, sigma)
        return eqx.tree_at(lambda oracle: oracle.component, self, component)

    def mapped(self, matrix: Array, offset: Array) -> "Gaussian":
        return eqx.tree_at(lambda oracle: oracle.component, self, self.component.mapped(matrix, offset))

    def posterior(self, operator: Numbers, y: Numbers, noise_covariance: Numbers) -> "Gaussian":
        checked = check_observation(operator, y, noise_covariance, self.shape[0], self.dtype)
        _, mean, covariance = self.component.condition(*checked)
        return Gaussian(mean, covariance)

    def log_evidence(self, operator: Numbers, y: Numbers, noise_covariance: Numbers) -> Array:
        checked = check_observation(operator, y, noise_covariance, self.shape[0], self.dtype)
        return self.component.condition(*checked)[0]

    def flow(self, schedule: AbstractSchedule, t0: Scalar, t1: Scalar, x: Numbers) -> Array:
        """The images of events `(..., d)` under the probability flow from time `t0` to `t1`, in closed form."""
        x = jnp.asarray(x, self.dtype)
        alpha0, sigma0, alpha1, sigma1 = (
            value.astype(self.dtype) for t in (t0, t1) for value in (schedule.alpha(t), schedule.sigma(t))
        )
        root = jnp.sqrt(self.component.eigenvalues)
        ratio = jnp.hypot(alpha1 * root, sigma1) / jnp.hypot(alpha0 * root, sigma0)
        vectors = self.component.eigenvectors

        def one(x: Event) -> Event:
            return alpha1 * self.mean + vectors @ (ratio * (vectors.T @ (x - alpha0 * self.mean)))

        return jnp.vectorize(one, signature="(d)->(d)")(x)
