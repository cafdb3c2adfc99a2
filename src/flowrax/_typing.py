"""Names for the array types that the package speaks of.

Shapes are written once here; `t` may be a Python float, a scalar array or an array of times.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Key, PyTree, Shaped

if TYPE_CHECKING:
    Times = float | Array | np.ndarray
    Scalar = float | Array | np.ndarray
else:
    Times = Float[ArrayLike, "..."]
    Scalar = Float[ArrayLike, ""]

Event = Float[Array, "..."]
"""One sample, of any rank."""
Batch = Shaped[Array, "_ ..."]
"""Samples along the leading axis."""
BatchLike = Shaped[ArrayLike, "_ ..."]
"""The same as users have it: JAX or numpy, any dtype."""
Rows = PyTree[Shaped[Array, "_ ..."]]
"""Samples of several parts, each along its leading axis; or a batch."""
PerSample = Float[Array, "*n"]
"""One number per sample (none of the axis inside a map over samples)."""
Tokens = Int[Array, "..."]
"""One sample of classes, of any rank."""
Numbers = ArrayLike | Sequence[Any]
"""Arrays as users write them, nested lists included."""
Condition = PyTree
"""Anything a network is conditioned on; None without."""
Shape = tuple[int, ...]
Network = Callable[..., Any]
"""`network(t, x, condition) -> array like x`, for one sample."""
DType = Any
KeyArray = Key[Array, ""]

__all__ = [
    "Array",
    "ArrayLike",
    "Batch",
    "BatchLike",
    "Bool",
    "Condition",
    "DType",
    "Event",
    "Float",
    "Int",
    "Key",
    "KeyArray",
    "Network",
    "Numbers",
    "PerSample",
    "PyTree",
    "Rows",
    "Scalar",
    "Shape",
    "Shaped",
    "Times",
    "Tokens",
]
