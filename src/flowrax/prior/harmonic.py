r"""A chain of beads on springs: $p(x_0) \propto \exp(-\tfrac{a}{2} \sum_i \lVert x_{i + 1} - x_i \rVert^2)$, centred.

The covariance of the beads is the pseudo-inverse of $a L$, where $a = 3 / d^2$ and $L$ is the Laplacian of the path
graph. The cosine transform diagonalises $L$: its eigenvalues are $4 \sin^2 (\pi k / 2n)$ and its eigenvectors
$\cos (\pi k (i + \tfrac12) / n)$. In three dimensions the root mean square distance between neighbours is $d$.
"""

import equinox as eqx
import jax.numpy as jnp

from .._base.checks import check_count, check_positive
from .._base.typing import Array, DType, Event, Scalar, Shape
from .base import AbstractGaussianPrior
from .spectrum import Spectrum


class Harmonic(AbstractGaussianPrior):
    """The linear harmonic chain (Jing et al. 2023), centred at the origin.

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

        Raises `ValueError` for fewer than two beads or one dimension, and unless `distance` is positive.
        """
        length, num_features = check_count("length", length, 2), check_count("num_features", num_features)
        check_positive("distance", distance)
        self.shape = (length, num_features)
        self.dtype = jnp.dtype(jnp.result_type(float) if dtype is None else dtype)
        self.mean = jnp.zeros(self.shape, self.dtype)
        k = jnp.arange(length, dtype=self.dtype)
        laplacian = 4 * jnp.sin(jnp.pi * k / (2 * length)) ** 2
        stiffness = 3 / jnp.asarray(distance, self.dtype) ** 2
        vectors = jnp.cos(jnp.pi * k[None, :] * (k[:, None] + 0.5) / length) * jnp.sqrt(2 / length)
        vectors = vectors.at[:, 0].set(length**-0.5)
        self.spectrum = Spectrum(jnp.where(k > 0, 1 / (stiffness * jnp.where(k > 0, laplacian, 1)), 0), vectors)

    @property
    def is_standard(self) -> bool:
        return False

    @property
    def rank(self) -> int | Array:
        return (self.shape[0] - 1) * self.shape[1]

    @property
    def log_determinant(self) -> Array:
        return self.shape[1] * self.spectrum.log_determinant()

    def root(self, z: Event) -> Event:
        return self.spectrum.root(z)

    def covariance_product(self, x: Event) -> Event:
        return self.spectrum.apply(x, lambda e: e)

    def precision_product(self, x: Event) -> Event:
        return self.spectrum.apply(x, lambda e: 1 / e)

    def project(self, x: Event) -> Event:
        return x - jnp.mean(x, axis=0, keepdims=True)

    def rescaled(self, factor: Scalar) -> "Harmonic":
        return eqx.tree_at(lambda prior: prior.spectrum, self, self.spectrum.rescaled(factor))
