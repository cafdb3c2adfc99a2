"""A warning about adaptive solves whose absolute tolerance is as large as the spread of the draws."""

import warnings

import diffrax as dfx
import jax
import jax.numpy as jnp

from .._base.checks import is_traced, time_dtype
from .._base.result import Samples
from .._base.typing import Array, PyTree

_FEWEST_DRAWS = 16

_NARROW = 10
"""A coordinate is narrow if its standard deviation is below this many `atol`."""


def warned_if_unresolved(samples: Samples, controller: dfx.AbstractStepSizeController) -> Samples:
    """Warns if coordinates of the draws vary by less than 10 `atol`, so that the steps may not resolve them.

    Says nothing for fewer than 16 draws, for traced values, for controllers without tolerances (a grid), and about
    coordinates that are constant up to rounding.
    """
    x, atol = samples.x, getattr(controller, "atol", None)
    if not isinstance(atol, float | int | jax.Array) or jnp.ndim(atol) or is_traced(x, atol):
        return samples
    count = int(_count_narrow(x, atol)) if x.shape[0] >= _FEWEST_DRAWS else 0
    if count:
        size = x[0].size
        warnings.warn(
            f"sample: {count} of {size} coordinates vary by less than {_NARROW} atol (atol={float(atol):.3g}) "
            "between the draws, so the steps may not resolve them; pass an atol= of about a hundredth of the smallest "
            "spread, or rescale the data.",
            stacklevel=4,
        )
    return samples


@jax.jit
def _count_narrow(x: Array, atol: PyTree) -> Array:
    rows = x.astype(time_dtype(x.dtype))
    spread, middle = jnp.std(rows, axis=0), jnp.max(jnp.abs(rows), axis=0)
    varies = spread > 8 * jnp.finfo(x.dtype).eps * middle
    return jnp.sum(varies & (spread < _NARROW * jnp.asarray(atol, spread.dtype)))
