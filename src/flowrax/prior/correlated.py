r"""$x_0 \sim \mathcal{N}(\mu, C)$ with a full covariance over the flattened event."""

import math

import equinox as eqx
import jax.numpy as jnp

from .._base.checks import as_floats, check_finite, check_number, check_shape, is_traced
from .._base.typing import Array, DType, Event, Numbers, Scalar, Shape
from .base import AbstractGaussianPrior
from .spectrum import Spectrum


class CorrelatedGaussian(AbstractGaussianPrior):
    """A Gaussian with an arbitrary covariance, which may be singular."""

    mean: Array
    spectrum: Spectrum
    shape: Shape = eqx.field(static=True)
    dtype: DType = eqx.field(static=True)

    def __init__(
        self,
        covariance: Numbers,
        *,
        mean: Numbers = 0.0,
        shape: Shape | None = None,
        dtype: DType | None = None,
    ):
        """**Arguments:**

        - `covariance`: the covariance of the event flattened to `(d,)`: `(d, d)`, positive semi-definite. Eigenvalues
            below `d` times the machine epsilon times the largest eigenvalue are set to zero.
        - `mean`: a scalar or an array with the shape of an event. It must lie in the range of a singular covariance.
        - `shape`: the shape of one event. Default: `(d,)`.
        - `dtype`: a floating dtype. Default: the dtype of the covariance.

        Raises `ValueError` for shapes that disagree, NaN, negative eigenvalues or a mean outside the range.
        """
        (matrix,) = as_floats(covariance)
        matrix = matrix if dtype is None else matrix.astype(dtype)
        size = matrix.shape[0] if matrix.ndim else 0
        check_shape("covariance", matrix.shape, (size, size))
        check_finite("covariance", matrix)
        self.shape, self.dtype = ((size,) if shape is None else tuple(shape)), matrix.dtype
        if math.prod(self.shape) != size:
            raise ValueError(
                f"covariance is {size} by {size} but events of shape {self.shape} have "
                f"{math.prod(self.shape)} elements."
            )
        values, vectors = jnp.linalg.eigh((matrix + matrix.T) / 2)
        noise = size * jnp.finfo(self.dtype).eps * jnp.max(jnp.abs(values))
        if not is_traced(values) and float(values[0]) < -float(noise):
            raise ValueError(
                f"covariance has a negative eigenvalue, {float(values[0]):.3g}; it must be positive semi-definite."
            )
        self.spectrum = Spectrum(jnp.where(values > noise, values, 0), vectors)
        mean = jnp.asarray(mean, self.dtype)
        check_number("mean", mean)
        if mean.ndim:
            check_shape("mean", mean.shape, self.shape)
        self.mean = jnp.broadcast_to(mean, self.shape)
        outside = jnp.max(jnp.abs(self.mean - self.project(self.mean)))
        if not is_traced(outside) and float(outside) > size * 1e2 * float(
            jnp.finfo(self.dtype).eps * jnp.max(jnp.abs(self.mean))
        ):
            raise ValueError("mean is outside the range of the singular covariance; shift the data instead.")

    @property
    def is_standard(self) -> bool:
        return False

    @property
    def rank(self) -> int | Array:
        return self.spectrum.rank()

    @property
    def log_determinant(self) -> Array:
        return self.spectrum.log_determinant()

    def root(self, z: Event) -> Event:
        return self.spectrum.root(z)

    def covariance_product(self, x: Event) -> Event:
        return self.spectrum.apply(x, lambda e: e)

    def precision_product(self, x: Event) -> Event:
        return self.spectrum.apply(x, lambda e: 1 / e)

    def project(self, x: Event) -> Event:
        return self.spectrum.apply(x, jnp.ones_like)

    def rescaled(self, factor: Scalar) -> "CorrelatedGaussian":
        factor = jnp.asarray(factor, self.dtype)
        changed = self.spectrum.rescaled(factor), factor * self.mean
        return eqx.tree_at(lambda prior: (prior.spectrum, prior.mean), self, changed)
