r"""The oracles $x_1 \sim \mathcal{N}(m, S)$ and $p(x_1) = \sum_k \omega_k\, \mathcal{N}(m_k, S_k)$, in closed form.

The probability flow of the Gaussian keeps $w = U^\top (x_t - \alpha m) / \tau(t)$ constant, with
$S = U \operatorname{diag}(e) U^\top$ and $\tau_i^2 = \alpha^2 e_i + \sigma^2$. With the responsibilities
$r_k \propto \omega_k\, p_{t,k}(x)$, the score and the denoised data of the mixture are the $r$-weighted means of the
components' scores and denoised data.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._base import random
from .._base.arrays import as_floats, as_numbers
from .._base.checks import check_finite, check_not_negative, check_shape, is_traced
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
        mean, covariance = as_floats(mean=mean, covariance=covariance)
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
        return self.component.transform(random.normal(key, self.shape, self.dtype))

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
        x = as_numbers("x", x, self.dtype)
        alpha0, sigma0, alpha1, sigma1 = (
            value.astype(self.dtype) for t in (t0, t1) for value in (schedule.alpha(t), schedule.sigma(t))
        )
        return _flow(self.component, alpha0, sigma0, alpha1, sigma1, x)


@eqx.filter_jit
def _flow(component: Component, alpha0: Array, sigma0: Array, alpha1: Array, sigma1: Array, x: Array) -> Array:
    root, vectors = jnp.sqrt(component.eigenvalues), component.eigenvectors
    ratio = jnp.hypot(alpha1 * root, sigma1) / jnp.hypot(alpha0 * root, sigma0)

    def one(x: Event) -> Event:
        return alpha1 * component.mean + vectors @ (ratio * (vectors.T @ (x - alpha0 * component.mean)))

    return jnp.vectorize(one, signature="(d)->(d)")(x)


class GaussianMixture(AbstractOracle):
    """A mixture of Gaussians with full covariances.

    `log_prob` and `marginal_log_prob` take events `(..., d)` with any leading axes.
    """

    log_weights: Array
    components: Component

    def __init__(self, weights: Numbers, means: Numbers, covariances: Numbers):
        """**Arguments:**

        - `weights`: the weights of the components, `(k,)`, nonnegative; they are normalised to sum to one.
        - `means`: the means of the components, `(k, d)`.
        - `covariances`: their covariances, `(k, d, d)`, positive semi-definite.

        **Raises:** `ValueError` for inconsistent shapes, NaN or infinity.
        """
        weights, means, covariances = as_floats(weights=weights, means=means, covariances=covariances)
        if means.ndim != 2:
            raise ValueError(f"means has shape {means.shape} but (k, d) is expected.")
        check_shape("weights", weights.shape, means.shape[:1])
        check_shape("covariances", covariances.shape, (*means.shape, means.shape[1]))
        for name, value in (("weights", weights), ("means", means), ("covariances", covariances)):
            check_finite(name, value)
        check_not_negative("weights", weights)
        if not is_traced(weights) and not np.any(np.asarray(weights) > 0):
            raise ValueError("weights must not all be zero.")
        check_covariance("covariances", covariances)
        self.log_weights = jax.nn.log_softmax(jnp.log(weights))
        self.components = jax.vmap(component_of)(means, covariances)

    @property
    def shape(self) -> Shape:
        return self.components.mean.shape[1:]

    @property
    def dtype(self) -> DType:
        return self.components.mean.dtype

    @property
    def means(self) -> Array:
        """The means of the components, `(k, d)`."""
        return self.components.mean

    @property
    def covariances(self) -> Array:
        """The covariances of the components, `(k, d, d)`."""
        return jax.vmap(lambda component: component.covariance())(self.components)

    @property
    def weights(self) -> Array:
        """The weights of the components, `(k,)`, summing to one."""
        return jnp.exp(self.log_weights)

    def posterior_terms(self, alpha: Scalar, sigma: Scalar, x: Event) -> tuple[Array, Array, Array]:
        log_densities, data, score = jax.vmap(lambda component: component.posterior_terms(alpha, sigma, x))(
            self.components
        )
        joint = self.log_weights + log_densities
        responsibilities = jax.nn.softmax(joint)
        return jax.nn.logsumexp(joint), responsibilities @ data, responsibilities @ score

    def draw(self, key: KeyArray) -> Event:
        which, noise = jax.random.split(random.as_threefry(key))
        index = random.categorical(which, self.log_weights)
        component = jax.tree.map(lambda leaf: leaf[index], self.components)
        return component.transform(random.normal(noise, self.shape, self.dtype))

    def scaled(self, alpha: Scalar, sigma: Scalar) -> "GaussianMixture":
        components = jax.vmap(lambda component: component.scaled(alpha, sigma))(self.components)
        return eqx.tree_at(lambda oracle: oracle.components, self, components)

    def mapped(self, matrix: Array, offset: Array) -> "GaussianMixture":
        components = jax.vmap(lambda component: component.mapped(matrix, offset))(self.components)
        return eqx.tree_at(lambda oracle: oracle.components, self, components)

    def posterior(self, operator: Numbers, y: Numbers, noise_covariance: Numbers) -> "GaussianMixture":
        operator, y, noise_covariance = check_observation(operator, y, noise_covariance, self.shape[0], self.dtype)
        evidence, means, covariances = jax.vmap(lambda component: component.condition(operator, y, noise_covariance))(
            self.components
        )
        return GaussianMixture(jax.nn.softmax(self.log_weights + evidence), means, covariances)

    def log_evidence(self, operator: Numbers, y: Numbers, noise_covariance: Numbers) -> Array:
        operator, y, noise_covariance = check_observation(operator, y, noise_covariance, self.shape[0], self.dtype)
        evidence, _, _ = jax.vmap(lambda component: component.condition(operator, y, noise_covariance))(self.components)
        return jax.nn.logsumexp(self.log_weights + evidence)
