"""Checks of arguments that fail before compilation, with one short sentence: what is wrong, where, and the remedy."""

from typing import Any

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from .typing import Array, DType, Numbers, PyTree, Shape


def is_traced(*trees: Any) -> bool:
    """Whether any leaf is a tracer of a JAX transformation."""
    for leaf in jax.tree.leaves(trees):
        if isinstance(leaf, Tracer):
            return True
    return False


def as_floats(*values: Numbers) -> tuple[Array, ...]:
    """The values as arrays of a common floating dtype: the widest of theirs, or JAX's default for integers."""
    arrays = [jnp.asarray(value) for value in values]
    with jax.numpy_dtype_promotion("standard"):
        dtype = jnp.result_type(*arrays, float)
    return tuple(array.astype(dtype) for array in arrays)


def check_shape(name: str, got: Shape, expected: Shape) -> None:
    """Raises `ValueError` unless the two shapes are equal."""
    if tuple(got) != tuple(expected):
        raise ValueError(f"{name} has shape {tuple(got)} but {tuple(expected)} is expected.")


def check_batch(name: str, x: Array | np.ndarray, event_shape: Shape, size: int | None = None) -> None:
    """Raises `ValueError` unless `x` has shape `(n, *event_shape)`, with `n = size` if `size` is given."""
    if x.ndim != len(event_shape) + 1 or tuple(x.shape[1:]) != tuple(event_shape):
        raise ValueError(
            f"{name} has shape {tuple(x.shape)} but (n, {', '.join(map(str, event_shape))}) is expected; "
            f"the model's events have shape {tuple(event_shape)}."
        )
    if size is not None and x.shape[0] != size:
        raise ValueError(f"{name} has {x.shape[0]} rows but {size} are expected.")


def check_time(name: str, t: float) -> float:
    """Raises `ValueError` unless `0 <= t <= 1`; returns `t` as a float."""
    if not 0.0 <= t <= 1.0:
        raise ValueError(f"{name}={t} is outside [0, 1]; t=0 is noise and t=1 is data.")
    return float(t)


def check_fraction(name: str, value: Any) -> None:
    """Raises `ValueError` for a Python number outside [0, 1]; arrays are not checked."""
    if isinstance(value, int | float) and not 0 <= value <= 1:
        raise ValueError(f"{name} must lie in [0, 1]; got {value}.")


def check_not_negative(name: str, value: Any) -> None:
    """Raises `ValueError` for a negative Python number; arrays are not checked."""
    if isinstance(value, int | float) and not value >= 0:
        raise ValueError(f"{name} must not be negative; got {value}.")


def check_interval(t_min: float, t_max: float) -> None:
    """Raises `ValueError` unless `0 <= t_min < t_max <= 1`."""
    check_time("t_min", t_min)
    check_time("t_max", t_max)
    if not t_min < t_max:
        raise ValueError(f"t_min={t_min} is not below t_max={t_max}.")


def check_finite(name: str, x: Any) -> None:
    """Raises `ValueError` if a concrete `x` contains NaN or infinity; traced values are not checked."""
    if is_traced(x):
        return
    bad = int(np.sum(~np.isfinite(np.asarray(x, dtype=np.float64))))
    if bad:
        raise ValueError(f"{name} holds {bad} NaN or infinite values; remove or impute them first.")


def check_std(std: Array) -> None:
    """Raises `ValueError` for a concrete standard deviation that is negative or NaN; zero (a constant) is allowed."""
    if not is_traced(std) and not np.all(np.asarray(std) >= 0):
        raise ValueError(f"std must not be negative; its smallest element is {np.min(np.asarray(std))}.")


def check_steps_of_noise(name: str, solver: Any) -> None:
    """Raises `ValueError` for a solver whose steps overlap, since noise is drawn separately for each step."""
    if isinstance(solver, dfx.LeapfrogMidpoint):
        raise ValueError(
            f"LeapfrogMidpoint steps over two intervals at once, but {name} draws its noise for one at a time; use a "
            "one-step solver such as Euler, Heun or ShARK."
        )


def time_dtype(dtype: DType) -> DType:
    """The dtype of times for a state of this dtype: the same, but at least float32."""
    return jnp.dtype(dtype if jnp.finfo(dtype).bits >= 32 else jnp.float32)


def in_single(x: PyTree) -> PyTree:
    """Casts floating arrays of less than 32 bits to float32, in which sums and losses are computed."""

    def one(leaf: Array) -> Array:
        return leaf.astype(time_dtype(leaf.dtype)) if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf

    return jax.tree.map(one, x)
