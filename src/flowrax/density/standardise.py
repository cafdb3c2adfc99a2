"""Shift and scale of data and conditions, estimated from the data or given."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._base.arrays import as_exact, as_leaf, as_numbers, as_real
from .._base.checks import check_number, is_traced
from .._base.rows import check_finite_leaves, columns_of
from .._base.typing import Array, Condition, DType, PyTree
from ..prior import AbstractGaussianPrior, AbstractPrior, Conditional
from ..train.source import is_stored

# The number of elements of a file that are read at once for means and standard deviations.
_PIECE = 2**22


class Standardiser(eqx.Module):
    r"""$z = (x - m) / s$, elementwise on the floating leaves of a PyTree; integer leaves (labels) are left unchanged.

    NumPy arrays and Python numbers are standardised in double precision before the result is cast.
    """

    shift: PyTree[Array]
    """$m$, with the structure and shapes of one `x`, rounded to the model's dtype."""
    rest: PyTree[Array]
    """The rounding error of `shift`: the exact $m$ is `shift + rest`."""
    scale: PyTree[Array]
    """$s$, positive, with the structure and shapes of one `x`."""
    learns_shift: bool = eqx.field(static=True)
    """Whether $m$ is estimated from the data."""
    learns_scale: bool = eqx.field(static=True)
    """Whether $s$ is estimated from the data."""

    def learned(self, name: str, rows: PyTree) -> "Standardiser":
        """The standardiser with the means and standard deviations of `rows`, where these were not given.

        Raises `ValueError`, with the argument's `name`, for a constant column whose scale is to be estimated.
        """
        shift, rest, scale = self.shift, self.rest, self.scale
        if self.learns_shift:
            means = jax.tree.map(lambda m, leaf: _mean(leaf) if _is_number(m) else m, shift, rows)
            shift = jax.tree.map(lambda m, mean: jnp.asarray(mean, m.dtype), shift, means)
            rest = jax.tree.map(_rounded_off, means, shift)
        if self.learns_scale:
            scale = jax.tree.map(lambda s, leaf: _spread(name, leaf, s) if _is_number(s) else s, scale, rows)
        return dataclasses.replace(self, shift=shift, rest=rest, scale=scale)

    def forward(self, x: PyTree) -> PyTree[Array]:
        """The standardised `z` of one `x`, or of rows of `x`."""
        return jax.tree.map(_standardised, x, self.shift, self.rest, self.scale)

    def backward(self, z: Array, leading: int) -> Array:
        """The events $x = m + s z$ of an array `z` with `leading` axes before the event's."""
        axes = tuple(range(leading))
        shift, rest, scale = (jnp.expand_dims(leaf, axes) for leaf in (self.shift, self.rest, self.scale))
        return shift + (rest + scale * z)

    def needs_double(self, z: Array) -> bool:
        """Whether the model's dtype cannot resolve a thousandth of the scale beside the shift; never for traced `z`."""
        if is_traced(z, self):
            return False
        shift, scale = np.asarray(self.shift, np.float64), np.asarray(self.scale, np.float64)
        return bool(np.any(np.abs(shift) * float(jnp.finfo(self.shift.dtype).eps) > 1e-3 * scale))

    def backward_on_host(self, z: Array) -> np.ndarray:
        """The events of `z`, with any leading axes, in double precision."""
        shift, rest, scale = (np.asarray(leaf, np.float64) for leaf in (self.shift, self.rest, self.scale))
        return (shift + rest) + scale * np.asarray(z, np.float64)

    def log_scale(self, prior: AbstractPrior) -> Array:
        r"""$\sum_i \log s_i$ over all elements of one event, or $r \log s$ for a singular prior of rank $r$."""
        return prior.rank * jnp.mean(jnp.log(self.scale))


def make_standardiser(name: str, example: PyTree, shift: PyTree, scale: PyTree, dtype: DType) -> Standardiser:
    """A standardiser for data shaped like `example`; a shift or scale of None is to be estimated from the data.

    Raises `ValueError` for a scale that is not positive, or a shift or scale of another structure or shape.
    """
    scales = jax.tree.map(lambda leaf, s: _cast(leaf, s, dtype), example, _given(f"{name}scale", example, scale, 1))
    for leaf in jax.tree.leaves(scales):
        if not is_traced(leaf) and not np.all(np.asarray(leaf) > 0):
            raise ValueError(f"{name}scale must be positive; its smallest element is {np.min(np.asarray(leaf))}.")
        check_number(f"{name}scale", leaf)
    means = _given(f"{name}shift", example, shift, 0)
    shifts = jax.tree.map(lambda leaf, m: _cast(leaf, m, dtype), example, means)
    for leaf in jax.tree.leaves(shifts):
        check_number(f"{name}shift", leaf)
    rests = jax.tree.map(_rounded_off, means, shifts)
    return Standardiser(shifts, rests, scales, learns_shift=shift is None, learns_scale=scale is None)


def check_isotropic(prior: AbstractPrior, scale: PyTree) -> None:
    """Raises `ValueError` for a prior that depends on the condition, and for an elementwise scale of a singular prior.

    An elementwise scale would change the range of a singular prior.
    """
    if isinstance(prior, Conditional):
        raise ValueError(
            "DensityEstimator needs one prior for all rows, but this prior depends on the condition; use flowrax.fit."
        )
    if not isinstance(prior, AbstractGaussianPrior) or (scale is not None and np.ndim(scale) == 0):
        return
    if is_traced(prior.rank) or int(prior.rank) < math.prod(prior.shape):
        raise ValueError(
            f"A scale for each element leaves the range of the singular prior {type(prior).__name__}; pass one number, "
            "scale=..., when you make the estimator."
        )


def cast_like(example: PyTree, condition: Condition, name: str, leading: tuple[int | str, ...]) -> PyTree:
    """The condition as arrays: numbers in full precision, labels in the example's dtypes.

    `leading` are the axes expected before those of the example; `("n",)` stands for any number of rows. Raises
    `ValueError` for another structure, other shapes, and floating-point numbers where labels are expected.
    """
    found, expected = jax.tree.structure(condition), jax.tree.structure(example)
    if found != expected:
        raise ValueError(
            f"{name} has the structure {found} but this estimator expects {expected}; the structure is set by "
            "DensityEstimator(..., condition=one condition as an example)."
        )
    arrays = jax.tree.map(lambda leaf, like: _like(leaf, like, name), condition, example)
    for leaf, like in zip(jax.tree.leaves(arrays), jax.tree.leaves(example), strict=True):
        rows = leaf.shape[:1] if leading == ("n",) else leading
        if leaf.shape != (*rows, *like.shape) or len(rows) != len(leading):
            wanted = ", ".join(map(str, (*leading, *like.shape)))
            raise ValueError(f"{name} has a leaf of shape {leaf.shape} but ({wanted}) is expected.")
    return arrays


def widened(name: str, x: Any, dtype: DType) -> Array | np.ndarray:
    """`x` without loss of precision: float64 for NumPy arrays and numbers, `dtype` or wider for JAX arrays."""
    if not isinstance(x, jax.Array) and not is_traced(x):
        array = as_real(name, x)
        return array if array.dtype == np.float64 else np.asarray(as_exact(name, array, np.float64), np.float64)
    with jax.numpy_dtype_promotion("standard"):
        return as_numbers(name, x, jnp.promote_types(as_real(name, x).dtype, dtype))


def _standardised(x: Any, shift: Array, rest: Array, scale: Array) -> Array:
    if not _is_number(shift):
        return x
    if isinstance(x, np.ndarray) and not is_traced(shift, rest, scale):
        m, r, s = (np.asarray(leaf, np.float64) for leaf in (shift, rest, scale))
        return jnp.asarray((x - m - r) / s, scale.dtype)
    x = jnp.asarray(x)
    axes = tuple(range(x.ndim - shift.ndim))
    m, r, s = (jnp.expand_dims(leaf.astype(x.dtype), axes) for leaf in (shift, rest, scale))
    return ((x - m - r) / s).astype(scale.dtype)


def _is_number(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.inexact)


def _cast(like: Any, value: Any, dtype: DType) -> Array:
    return jnp.broadcast_to(jnp.asarray(value, dtype if _is_number(like) else like.dtype), like.shape)


def _rounded_off(value: Any, rounded: Array) -> Array:
    """The rounding error `value - rounded`; zero for traced values and labels."""
    if is_traced(value, rounded) or not _is_number(rounded):
        return jnp.zeros_like(rounded)
    return jnp.asarray(np.asarray(value, np.float64) - np.asarray(rounded, np.float64), rounded.dtype)


def _given(name: str, example: PyTree, value: PyTree, default: int) -> PyTree:
    """`value` in the structure of the example; `value` has that structure, is a scalar for all leaves, or None."""
    structure = jax.tree.structure(example)
    if value is None or structure.num_leaves == 0:
        values = [default] * structure.num_leaves
    elif structure == jax.tree.structure(0):
        values = [value]
    elif np.ndim(value) == 0 and jax.tree.structure(value) == jax.tree.structure(0):
        values = [value] * structure.num_leaves
    elif jax.tree.structure(value) == structure:
        values = jax.tree.leaves(value)
    else:
        raise ValueError(f"{name} is {jax.tree.structure(value)} but {structure} is expected.")

    def one(leaf: Any, value: Any) -> Any:
        if not _is_number(leaf):
            return default
        if np.shape(value) not in ((), tuple(leaf.shape)):
            raise ValueError(f"{name} has shape {np.shape(value)} but {tuple(leaf.shape)} or a scalar is expected.")
        return as_real(name, value)

    return jax.tree.unflatten(structure, [one(*pair) for pair in zip(jax.tree.leaves(example), values, strict=True)])


def _like(leaf: Any, like: Array, name: str) -> Array | np.ndarray:
    if _is_number(like):
        return widened(name, leaf, like.dtype)
    array = as_leaf(name, leaf, float)
    if _is_number(array):
        raise ValueError(
            f"{name} holds floating-point numbers where this estimator expects integer labels; pass integers, or make "
            "it with DensityEstimator(..., condition=an example with floating-point numbers)."
        )
    return array.astype(like.dtype)


def _mean(rows: Any, of: Callable[[np.ndarray], np.ndarray] = lambda x: x) -> Any:
    """The mean of a function over the rows in double precision; files are read in pieces."""
    return np.sum([np.mean(of(piece), axis=0) * (len(piece) / len(rows)) for piece in pieces(rows)], axis=0)


def pieces(rows: Any) -> Iterator[np.ndarray]:
    """The rows in double precision: all of an array in memory, some of one in a file at a time."""
    size = max(1, _PIECE // max(1, math.prod(rows.shape[1:]))) if is_stored(rows) else len(rows)
    for start in range(0, len(rows), size):
        yield np.asarray(rows[start : start + size], np.float64)


def check_finite_rows(name: str, rows: Any, data: Any) -> None:
    """Raises `ValueError` for rows that are NaN or infinite, with their numbers and the columns of `data`."""
    if not is_stored(rows):
        check_finite_leaves(name, rows, columns_of(data))
        return
    read = 0
    for piece in pieces(rows):
        check_finite_leaves(name, piece, numbers=read + np.arange(len(piece)))
        read += len(piece)


def _spread(name: str, rows: Any, like: Array) -> Array:
    """The standard deviations; raises `ValueError` for constant columns, and where the dtype cannot hold them."""
    low, high = (
        functools.reduce(of, (of.reduce(piece, axis=0) for piece in pieces(rows))) for of in (np.minimum, np.maximum)
    )
    constant = np.argwhere(np.atleast_1d(low == high))
    if len(constant):
        where = ", ".join(str(tuple(map(int, i)) if len(i) > 1 else int(i[0])) for i in constant[:5])
        more = "" if len(constant) <= 5 else f" and {len(constant) - 5} more"
        raise ValueError(
            f"{name} is constant in column {where}{more} of {len(rows)} rows, so it has no scale; "
            "drop that column, or give the scale when you make the estimator."
        )
    mean = _mean(rows)
    spread = np.sqrt(_mean(rows, lambda x: np.square(x - mean)))
    limits = jnp.finfo(like.dtype)
    bad = (spread < 100 * float(limits.tiny)) | (spread > float(limits.max) / 100)
    if np.any(bad):
        raise ValueError(
            f"{name} has a standard deviation of {np.asarray(spread)[bad].flat[0]:.3g}, beyond the range of "
            f"{like.dtype}; rescale that column, or give the scale when you make the estimator."
        )
    return jnp.asarray(spread, like.dtype)


class StandardisedRows:
    """Standardises rows of a file when they are read."""

    def __init__(self, standard: Standardiser, name: str, rows: Any) -> None:
        self.standard, self.name, self.rows = standard, name, rows
        self.shape, self.dtype = rows.shape, standard.scale.dtype

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        rows = widened(self.name, np.asarray(self.rows[index]), self.dtype)
        return np.asarray(self.standard.forward(rows))
