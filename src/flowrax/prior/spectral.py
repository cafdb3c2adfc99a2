r"""Gaussians $\mathcal{N}(\mu, C)$ given by the eigendecomposition $C = U \operatorname{diag}(e) U^\top$."""

import math
from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp

from .._base.arrays import as_floats, as_numbers, float_dtype
from .._base.checks import check_count, check_finite, check_number, check_positive, check_shape, is_traced
from .._base.typing import Array, DType, Event, Numbers, Scalar, Shape
from .base import AbstractGaussianPrior


class Spectrum(eqx.Module):
    """The eigendecomposition of a `(k, k)` covariance, which acts on each column of an event reshaped to `(k, m)`.

    A zero eigenvalue marks a direction with no variance.
    """

    eigenvalues: Array
    eigenvectors: Array

    def apply(self, x: Event, function: Callable[[Array], Array], *, left: bool = True) -> Event:
        r"""$U f(e) U^\top x$, or $U f(e) x$ if `left` is false, with $f(0)$ replaced by 0."""
        size = self.eigenvalues.shape[0]
        values, vectors = self.eigenvalues.astype(x.dtype), self.eigenvectors.astype(x.dtype)
        rows = x.reshape(size, -1)
        rows = vectors.T @ rows if left else rows
        factors = jnp.where(values > 0, function(jnp.where(values > 0, values, 1)), 0)
        return (vectors @ (factors[:, None] * rows)).reshape(x.shape)

    def root(self, z: Event) -> Event:
        """$U e^{1/2} z$."""
        return self.apply(z, jnp.sqrt, left=False)

    def log_determinant(self) -> Array:
        """The sum of the logarithms of the nonzero eigenvalues, for one column of the event."""
        return jnp.sum(jnp.log(jnp.where(self.eigenvalues > 0, self.eigenvalues, 1)))

    def rank(self) -> Array:
        """The number of nonzero eigenvalues, for one column of the event."""
        return jnp.sum(self.eigenvalues > 0).astype(self.eigenvalues.dtype)

    def rescaled(self, factor: Scalar) -> "Spectrum":
        """The covariance of `factor * x`."""
        return Spectrum(jnp.asarray(factor, self.eigenvalues.dtype) ** 2 * self.eigenvalues, self.eigenvectors)


class AbstractSpectralGaussian(AbstractGaussianPrior):
    """A Gaussian whose covariance is given by its eigendecomposition."""

    spectrum: eqx.AbstractVar[Spectrum]
    is_standard: ClassVar[bool] = False

    def root(self, z: Event) -> Event:
        return self.spectrum.root(z)

    def covariance_product(self, x: Event) -> Event:
        return self.spectrum.apply(x, lambda e: e)

    def precision_product(self, x: Event) -> Event:
        return self.spectrum.apply(x, lambda e: 1 / e)


class CorrelatedGaussian(AbstractSpectralGaussian):
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
        (matrix,) = as_floats(covariance=covariance)
        matrix = matrix if dtype is None else matrix.astype(float_dtype(dtype))
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
        mean = as_numbers("mean", mean, self.dtype)
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
    def rank(self) -> int | Array:
        return self.spectrum.rank()

    @property
    def log_determinant(self) -> Array:
        return self.spectrum.log_determinant()

    def project(self, x: Event) -> Event:
        return self.spectrum.apply(x, jnp.ones_like)

    def rescaled(self, factor: Scalar) -> "CorrelatedGaussian":
        factor = jnp.asarray(factor, self.dtype)
        changed = self.spectrum.rescaled(factor), factor * self.mean
        return eqx.tree_at(lambda prior: (prior.spectrum, prior.mean), self, changed)


class Harmonic(AbstractSpectralGaussian):
    r"""The linear harmonic chain (Jing et al. 2023), centred at the origin: beads on springs.

    The density of centred beads is $p(x_0) \propto \exp(-\tfrac{a}{2} \sum_i \lVert x_{i + 1} - x_i \rVert^2)$. Their
    covariance is the pseudo-inverse of $a L$, where $a = 3 / d^2$ and $L$ is the Laplacian of the path graph. The
    cosine transform diagonalises $L$: its eigenvalues are $4 \sin^2 (\pi k / 2n)$ and its eigenvectors
    $\cos (\pi k (i + \tfrac12) / n)$. In three dimensions the root mean square distance between neighbours is $d$.

    **Reference:** [@jing2023eigenfold].
    """

    mean: Array
    spectrum: Spectrum
    shape: Shape = eqx.field(static=True)
    dtype: DType = eqx.field(static=True)

    def __init__(self, length: int, num_features: int = 3, *, distance: Scalar = 3.8, dtype: DType | None = None):
        """**Arguments:**

        - `length`: the number of beads. Events are `(length, num_features)`.
        - `num_features`: the dimension of space.
        - `distance`: $d$, in the units of the data. The default, 3.8, is the distance between neighbouring alpha
            carbons in angstrom.
        - `dtype`: a floating dtype. Default: JAX's default floating dtype.

        Raises `ValueError` for fewer than two beads.
        """
        length, num_features = check_count("length", length, 2), check_count("num_features", num_features)
        check_positive("distance", distance)
        self.shape = (length, num_features)
        self.dtype = float_dtype(dtype)
        self.mean = jnp.zeros(self.shape, self.dtype)
        k = jnp.arange(length, dtype=self.dtype)
        laplacian = 4 * jnp.sin(jnp.pi * k / (2 * length)) ** 2
        stiffness = 3 / jnp.asarray(distance, self.dtype) ** 2
        vectors = jnp.cos(jnp.pi * k[None, :] * (k[:, None] + 0.5) / length) * jnp.sqrt(2 / length)
        vectors = vectors.at[:, 0].set(length**-0.5)
        self.spectrum = Spectrum(jnp.where(k > 0, 1 / (stiffness * jnp.where(k > 0, laplacian, 1)), 0), vectors)

    @property
    def rank(self) -> int | Array:
        return (self.shape[0] - 1) * self.shape[1]

    @property
    def log_determinant(self) -> Array:
        return self.shape[1] * self.spectrum.log_determinant()

    def project(self, x: Event) -> Event:
        return x - jnp.mean(x, axis=0, keepdims=True)

    def rescaled(self, factor: Scalar) -> "Harmonic":
        return eqx.tree_at(lambda prior: prior.spectrum, self, self.spectrum.rescaled(factor))
