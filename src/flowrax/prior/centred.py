r"""Centred point clouds: $x_0 = P (\mu + s \xi)$, where $P$ subtracts the mean over nodes."""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from .._base.arguments import checked
from .._base.arrays import as_numbers, as_real, float_dtype
from .._base.checks import check_number, check_shape, check_std, is_traced
from .._base.typing import Array, ArrayLike, DType, Event, Numbers, Scalar, Shape
from .base import AbstractGaussianPrior


@checked
def remove_centre(x: Array, mask: ArrayLike | None = None) -> Array:
    """Subtracts the mean over the valid nodes from each valid node, and sets all other nodes to zero.

    **Arguments:**

    - `x`: `(..., nodes, features)`.
    - `mask`: `(..., nodes)`, true or one for valid nodes. Default: all nodes are valid.

    **Returns:** an array like `x`, which is zero if no node is valid.
    """
    x = jnp.asarray(as_real("x", x))
    if x.ndim < 2:
        raise ValueError(f"x has shape {x.shape} but (..., nodes, features) is expected.")
    if mask is None:
        return x - jnp.mean(x, axis=-2, keepdims=True)
    # Select, do not multiply: 0 x NaN is NaN, and padding may hold NaN.
    valid = as_mask(mask)
    if valid.ndim >= x.ndim or valid.shape[-1:] != x.shape[-2:-1]:
        raise ValueError(f"mask has shape {valid.shape} but (..., {x.shape[-2]}) is expected.")
    counts = valid[..., None]
    kept = jnp.where(counts, x, 0)
    number = jnp.maximum(jnp.sum(counts, axis=-2, keepdims=True), 1).astype(x.dtype)
    return jnp.where(counts, kept - jnp.sum(kept, axis=-2, keepdims=True) / number, 0)


def as_mask(mask: ArrayLike) -> Array:
    """The mask as truth values; raises `ValueError` for concrete numbers other than zero and one."""
    array = jnp.asarray(as_real("mask", mask))
    if not is_traced(array) and not np.all((np.asarray(array) == 0) | (np.asarray(array) == 1)):
        raise ValueError("mask must be true or one for valid nodes and false or zero for others; it has other values.")
    return array.astype(bool)


class CentredGaussian(AbstractGaussianPrior):
    """An isotropic Gaussian of points, minus the mean over the nodes.

    Samples of a model of centred data with this prior are centred, and densities are taken on the space of centred
    points.
    """

    mean: Array
    std: Array
    mask: Array | None
    shape: Shape = eqx.field(static=True)
    dtype: DType = eqx.field(static=True)
    is_standard: ClassVar[bool] = False

    def __init__(
        self,
        shape: Shape,
        *,
        mean: Numbers = 0.0,
        std: Scalar = 1.0,
        mask: ArrayLike | None = None,
        dtype: DType | None = None,
    ):
        """**Arguments:**

        - `shape`: the shape of one event, `(..., nodes, features)`.
        - `mean`: a scalar or an array with the shape of an event. Its mean over the nodes is subtracted.
        - `std`: the standard deviation of every element before the mean is subtracted, a scalar.
        - `mask`: `(..., nodes)`, true or one for valid nodes; the other nodes are zero. It may be traced, so events
            of several sizes can be drawn with one `jax.vmap` over keys and masks. Default: all nodes are valid.
        - `dtype`: a floating dtype. Default: JAX's default floating dtype.

        Raises `ValueError` for a negative standard deviation and for shapes that disagree.
        """
        self.shape = tuple(shape)
        if len(self.shape) < 2:
            raise ValueError(f"CentredGaussian needs events (..., nodes, features); got shape {self.shape}.")
        self.dtype = float_dtype(dtype)
        self.mask = None if mask is None else as_mask(mask)
        if self.mask is not None:
            check_shape("mask", self.mask.shape, self.shape[:-1])
        mean, self.std = as_numbers("mean", mean, self.dtype), as_numbers("std", std, self.dtype)
        if mean.ndim:
            check_shape("mean", mean.shape, self.shape)
        check_shape("std", self.std.shape, ())
        check_std(self.std)
        check_number("mean", mean)
        self.mean = self.project(jnp.broadcast_to(mean, self.shape))

    @property
    def rank(self) -> int | Array:
        mask = jnp.ones(self.shape[:-1], bool) if self.mask is None else self.mask
        nodes = jnp.sum(mask, axis=-1)
        return (self.shape[-1] * jnp.sum(jnp.maximum(nodes - 1, 0))).astype(self.dtype)

    @property
    def log_determinant(self) -> Array:
        return 2 * self.rank * jnp.log(self.std)

    def root(self, z: Event) -> Event:
        return self.std.astype(z.dtype) * self.project(z)

    def covariance_product(self, x: Event) -> Event:
        return self.std.astype(x.dtype) ** 2 * self.project(x)

    def precision_product(self, x: Event) -> Event:
        return self.project(x) / self.std.astype(x.dtype) ** 2

    def project(self, x: Event) -> Event:
        return remove_centre(x, self.mask)

    def rescaled(self, factor: Scalar) -> "CentredGaussian":
        factor = jnp.asarray(factor, self.dtype)
        options = dict(mask=self.mask, dtype=self.dtype)
        return CentredGaussian(self.shape, mean=factor * self.mean, std=factor * self.std, **options)
