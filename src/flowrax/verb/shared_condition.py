"""Finds conditions of rows that were passed without `Batched`."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._base.condition import Batched
from .._base.typing import Condition
from ..discrete.base import AbstractCategoricalModel
from ..joint.model import JointModel
from ..model.base import AbstractContinuousModel, AbstractModel


def check_shared(model: AbstractModel, condition: Condition | Batched, n: int) -> None:
    """Raises `ValueError` where each of `n` samples has a row of a shared condition that the network does not take."""
    leaves = jax.tree.leaves(condition)
    if isinstance(condition, Batched) or n < 2 or not leaves:
        return
    # Anything else than plain arrays is judged where it is converted.
    if not all(isinstance(leaf, jax.Array) or type(leaf) is np.ndarray for leaf in leaves):
        return
    kinds = jnp.number, jnp.bool_
    if any(leaf.shape[:1] != (n,) or not any(jnp.issubdtype(leaf.dtype, k) for k in kinds) for leaf in leaves):
        return
    if _takes(model, condition):
        return
    if _takes(model, jax.tree.map(lambda leaf: jnp.asarray(leaf)[0], condition)):
        raise ValueError(
            f"condition has {n} rows, one for each sample, but the network takes one of them; pass "
            "condition=Batched(condition)."
        )


def _takes(model: AbstractModel, condition: Condition) -> bool:
    """Whether the network can be called with this condition."""
    try:
        eqx.filter_eval_shape(_call, model, condition)
    except Exception:
        return False
    return True


def _call(model: Any, condition: Condition) -> Any:
    t = jnp.asarray(model.t_min, model.dtype)
    if isinstance(model, JointModel):
        x = {name: jnp.zeros(part.shape, part.prior.dtype) for name, part in model.parts.items()}
        return model.outputs(dict.fromkeys(x, t), x, condition)
    if isinstance(model, AbstractCategoricalModel):
        return model.log_probabilities(t, jnp.zeros(model.shape, model.prior.dtype), condition)
    if isinstance(model, AbstractContinuousModel):
        return model.predict(t, jnp.zeros(model.shape, model.dtype), condition).velocity
    return None
