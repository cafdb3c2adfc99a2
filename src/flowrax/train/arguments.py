"""The numeric arguments of `fit`, and its default optimiser."""

import operator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._base.typing import Array, GradientTransformation
from .by_value import ByValue


def check_count(name: str, value: Any, least: int) -> int:
    """The value as an int; raises `ValueError` unless it is an integer (NumPy's too) of at least `least`."""
    try:
        count = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        count = None
    if count is None or count < least:
        raise ValueError(f"{name} must be an integer of at least {least}; got {value}.")
    return count


def check_decay(name: str, value: Any) -> float:
    """The value as a float; raises `ValueError` unless it is a number from 0 to 1."""
    try:
        decay = float(value)
    except (TypeError, ValueError):
        decay = float("nan")
    if not 0 <= decay <= 1:
        raise ValueError(f"{name} must be a number from 0 to 1; got {value}.")
    return decay


def compared_by_value(optimizer: GradientTransformation) -> GradientTransformation:
    """The optimiser with functions that compare equal to those of another optimiser made in the same way."""
    import optax

    if not (callable(getattr(optimizer, "init", None)) and callable(getattr(optimizer, "update", None))):
        raise ValueError(f"optimizer must be an optax transformation, with init and update; got {optimizer!r:.80}.")
    update = optimizer.update
    if isinstance(optimizer, optax.GradientTransformation):
        update = optax.with_extra_args_support(optimizer).update
    return optax.GradientTransformationExtraArgs(ByValue(optimizer.init), ByValue(update))


def check_optimizer(optimizer: GradientTransformation, parameters: Any) -> None:
    """Raises `ValueError` for an optimiser whose update fails or changes the structure of its state."""

    def loss(parameters: Any) -> Array:
        return sum((jnp.sum(leaf).astype(jnp.float32) for leaf in jax.tree.leaves(parameters)), jnp.float32(0))

    def once(parameters: Any) -> tuple[Any, Any]:
        state = optimizer.init(parameters)
        extra: dict[str, Any] = {"value": loss(parameters), "grad": parameters, "value_fn": loss}
        with jax.numpy_dtype_promotion("standard"):
            return state, optimizer.update(parameters, state, parameters, **extra)[1]

    try:
        before, after = eqx.filter_eval_shape(once, parameters)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"fit cannot use this optimizer, to which it gives gradients, state, parameters, value, grad and value_fn: "
            f"{reason}"
        ) from error
    if jax.tree.structure(before) != jax.tree.structure(after):
        raise ValueError("fit cannot use this optimizer: an update changes the structure of its state.")


def default_optimizer(num_steps: int) -> GradientTransformation:
    """Adam with a warm-up and a cosine decay to zero."""
    import optax

    warm = min(500, max(1, num_steps // 10))
    return optax.adam(optax.warmup_cosine_decay_schedule(0.0, 1e-3, warm, max(num_steps, warm + 1)))
