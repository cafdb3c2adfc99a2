"""Names for the array types that the package speaks of.

Shapes are written once here; `t` may be a Python float, a scalar array or an array of times.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from jaxtyping import Array, ArrayLike, Bool, Float, Int, Key, PyTree, Shaped

if TYPE_CHECKING:
    Times = float | Array
    Scalar = float | Array
else:
    Times = Float[ArrayLike, "..."]
    Scalar = Float[ArrayLike, ""]

Event = Float[Array, "..."]
"""One sample, of any rank."""
Batch = Float[Array, "n ..."]
"""Samples along the leading axis."""
PerSample = Float[Array, " n"]
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
    "Bool",
    "Condition",
    "DType",
    "Event",
    "Float",
    "Int",
    "Key",
    "KeyArray",
    "Network",
    "PerSample",
    "PyTree",
    "Scalar",
    "Shape",
    "Shaped",
    "Times",
]
