"""Names for the array types used in the package.

Shapes are defined here only. A time `t` may be a Python float, a scalar array or an array of times.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import (
    Array as Array,
    ArrayLike as ArrayLike,
    Bool as Bool,
    Float as Float,
    Int as Int,
    Key as Key,
    PyTree as PyTree,
    Shaped as Shaped,
)

if TYPE_CHECKING:
    # optax is slow to import, so at run time this name means any type.
    from optax import GradientTransformation as GradientTransformation

    Times = float | Array | np.ndarray
    Scalar = float | Array | np.ndarray
    KeyLike = Array | np.ndarray
    BatchLike = ArrayLike
    Numbers = ArrayLike | Sequence[Any]
    Integer = int | np.integer[Any]
    Number = float | np.floating[Any]
else:
    Integer = int | np.integer
    GradientTransformation = Any
    # `fit` checks these itself.
    Count = Number = Any
    Times = Float[ArrayLike, "..."]
    Scalar = Float[ArrayLike, ""]
    # Verbs check these arguments themselves, so that a wrong one raises a readable error.
    KeyLike = BatchLike = Numbers = Any
"""`Times` and `Scalar`: times of any shape and one time. `KeyLike`: a random key as users pass it, typed or raw.
`BatchLike`: a batch as users pass it, a JAX or NumPy array of any real dtype. `Numbers`: arrays as users
write them, including nested lists."""

Event = Float[Array, "..."]
"""One sample, of any rank."""
Batch = Shaped[Array, "_ ..."]
"""A batch: samples along the leading axis."""
Rows = PyTree[Shaped[Array, "_ ..."]]
"""A batch, or a PyTree of batches for samples with several parts."""
PerSample = Float[Array, "*n"]
"""One number per sample, `(n,)`; a scalar inside a map over samples."""
Tokens = Int[Array, "..."]
"""One sample of classes, of any rank."""
Condition = PyTree
"""Any PyTree that a network is conditioned on; None for no condition."""
MaskOf = Callable[[Condition], Array]
"""Selects the mask of an event from its condition."""
Shape = tuple[int, ...]
Network = Callable[..., Any]
"""`network(t, x, condition) -> array like x`, for one sample."""
DType = Any
KeyArray = Key[Array, ""]
