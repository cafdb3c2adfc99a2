"""Converts arrays of real numbers that the requested dtype can hold, and raises an error for all other arrays.

NumPy and JAX also make unsafe conversions: they drop imaginary parts, masks and units, and wrap integers that are too
large.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .checks import is_traced
from .typing import Array, DType
from .wording import described


def as_real(name: str, x: Any) -> Array | np.ndarray:
    """`x` as a JAX array if it is one, otherwise as a NumPy array, in its own dtype.

    **Arguments:**

    - `name`: the name of the argument in messages.
    - `x`: an array or nested lists of real numbers or booleans.

    **Returns:** the array.

    **Raises:** `ValueError` for complex numbers, masked elements, units, and objects that are not arrays of numbers.
    """
    for leaf in jax.tree.leaves(x) if isinstance(x, list | tuple) else (x,):
        unit = getattr(leaf, "unit", getattr(leaf, "units", None))
        if unit is not None:
            raise ValueError(f"{name} has units ({unit}), which would be lost; pass its plain numbers.")
        if isinstance(leaf, np.ma.MaskedArray) and np.ma.is_masked(leaf):
            raise ValueError(
                f"{name} is a masked array with {np.ma.count_masked(leaf)} masked elements, whose values would be "
                "used; fill or drop them first."
            )
    try:
        array = jnp.asarray(x) if isinstance(x, jax.Array) or is_traced(x) else np.asarray(x)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is not an array of real numbers: {error}") from None
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        raise ValueError(f"{name} must be an array of real numbers; got random keys.")
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise ValueError(
            f"{name} is complex ({array.dtype}), but numbers must be real; stack real and imaginary parts on an axis."
        )
    if not (jnp.issubdtype(array.dtype, jnp.number) or array.dtype == jnp.bool_):
        raise ValueError(f"{name} has dtype {array.dtype}, but an array of real numbers is expected.")
    return array


def as_numbers(name: str, x: Any, dtype: DType) -> Array:
    """`x` as an array of the floating `dtype`; floating-point numbers are rounded, integers must be exact.

    **Raises:** `ValueError` as [`as_real`][], for integers that `dtype` cannot represent, and for finite numbers beyond
    its range. Traced values are not checked.
    """
    return jnp.asarray(as_exact(name, as_real(name, x), dtype), dtype)


def as_exact(name: str, array: Array | np.ndarray, dtype: DType) -> Array | np.ndarray:
    """The array unchanged; raises `ValueError` as [`as_numbers`][] if the floating `dtype` cannot hold it."""
    if not is_traced(array):
        if jnp.issubdtype(array.dtype, jnp.integer):
            _check_exact(name, np.asarray(array), jnp.dtype(dtype))
        _check_overflow(name, array, jnp.dtype(dtype))
    return array


def as_leaf(name: str, x: Any, dtype: DType) -> Array:
    """`x` as an array: floating-point numbers in the floating `dtype`, integers and booleans in their own.

    **Raises:** `ValueError` as [`as_numbers`][], and for integers beyond the range of JAX's integers.
    """
    array = as_real(name, x)
    if jnp.issubdtype(array.dtype, jnp.floating):
        return as_numbers(name, x, dtype)
    narrow = jax.dtypes.canonicalize_dtype(array.dtype)
    if not is_traced(array) and array.dtype != narrow:
        wrong = np.asarray(array)[np.asarray(array) != np.asarray(array).astype(narrow)]
        if wrong.size:
            raise ValueError(
                f"{name} holds the integer {wrong.flat[0]}, beyond the range of {narrow}; shift it, pass "
                'floating-point numbers, or set jax.config.update("jax_enable_x64", True).'
            )
    return jnp.asarray(x)


def as_floats(**values: Any) -> tuple[Array, ...]:
    """The named values as arrays of a common floating dtype: the widest among them, or JAX's default for integers."""
    arrays = {name: as_real(name, value) for name, value in values.items()}
    # Numbers and JAX arrays may be weakly typed.
    plain = [
        type(v) if isinstance(v, bool | int | float) else v if isinstance(v, jax.Array) else _own(arrays[name])
        for name, v in values.items()
    ]
    with jax.numpy_dtype_promotion("standard"):
        dtype = jnp.result_type(*plain, float)
    return tuple(as_numbers(name, array, dtype) for name, array in arrays.items())


def _own(array: Array | np.ndarray) -> DType:
    return jax.dtypes.canonicalize_dtype(array.dtype)


def float_dtype(dtype: DType | None) -> jnp.dtype:
    """The dtype of a model or prior: JAX's default for None; raises `ValueError` unless it is floating and enabled."""
    try:
        dtype = jnp.dtype(jnp.result_type(float) if dtype is None else dtype)
    except (TypeError, ValueError):
        raise ValueError(f"dtype must be a floating-point dtype such as jnp.float32; got {described(dtype)}.") from None
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"dtype={dtype} is not a real floating-point dtype; pass for example float32.")
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise ValueError(f'dtype={dtype} needs jax.config.update("jax_enable_x64", True), which is off.')
    return dtype


def _check_exact(name: str, values: np.ndarray, dtype: jnp.dtype) -> None:
    """Integers are exact in `p` bits if they have at most `p` bits without their trailing zeros."""
    bits = jnp.finfo(dtype).nmant + 1
    if np.iinfo(values.dtype).max <= 2**bits:
        return
    large = values[(values > 2**bits) | (values < -(2**bits))]
    lowest = large & (~large + large.dtype.type(1))
    with np.errstate(over="ignore"):
        wrong = large[np.abs(large // lowest) > 2**bits]
    if wrong.size:
        raise ValueError(
            f"{name} holds the integer {wrong[0]}, which {dtype} cannot represent exactly; subtract an offset, or pass "
            "floating-point numbers if rounding does no harm."
        )


def _check_overflow(name: str, array: Array | np.ndarray, dtype: jnp.dtype) -> None:
    if array.dtype == jnp.bool_ or array.dtype == dtype:
        return
    largest = float(jnp.finfo(dtype).max)
    limits = jnp.iinfo if jnp.issubdtype(array.dtype, jnp.integer) else jnp.finfo
    if float(limits(array.dtype).max) <= largest:
        return
    values = np.asarray(array)
    wrong = values[(np.abs(values) > largest) & (np.abs(values) < np.inf)]
    if wrong.size:
        raise ValueError(f"{name} holds {wrong[0]:.6g}, beyond the range of {dtype} ({largest:.3g}); rescale it.")
