"""Names for the array types used in the package.

Shapes are defined here only. A time `t` may be a Python float, a scalar array or an array of times.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Key, PyTree, Shaped

if TYPE_CHECKING:
    # optax is slow to import, so at run time this name means any type.
    from optax import GradientTransformation as GradientTransformation

    Times = float | Array | np.ndarray
    Scalar = float | Array | np.ndarray
    Count = int | np.integer[Any]
    Number = float | np.floating[Any]
else:
    GradientTransformation = Any
    # `fit` checks these itself, in words.
    Count = Number = Any
    Times = Float[ArrayLike, "..."]
    Scalar = Float[ArrayLike, ""]

Event = Float[Array, "..."]
"""One sample, of any rank."""
Batch = Shaped[Array, "_ ..."]
"""A batch: samples along the leading axis."""
BatchLike = Shaped[ArrayLike, "_ ..."]
"""A batch as users pass it: a JAX or NumPy array of any dtype."""
Rows = PyTree[Shaped[Array, "_ ..."]]
"""A batch, or a PyTree of batches for samples with several parts."""
PerSample = Float[Array, "*n"]
"""One number per sample, `(n,)`; a scalar inside a map over samples."""
Tokens = Int[Array, "..."]
"""One sample of classes, of any rank."""
Numbers = ArrayLike | Sequence[Any]
"""Arrays as users write them, including nested lists."""
Condition = PyTree
"""Any PyTree that a network is conditioned on; None for no condition."""
MaskOf = Callable[[Condition], Array]
"""Selects the mask of an event from its condition."""
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
    "Count",
    "DType",
    "Event",
    "Float",
    "GradientTransformation",
    "Int",
    "Key",
    "KeyArray",
    "MaskOf",
    "Network",
    "Number",
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
