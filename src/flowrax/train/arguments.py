"""The numeric arguments of `fit`, and its default optimiser."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._base.checks import check_count, check_fraction, check_number
from .._base.typing import Array, GradientTransformation
from .._base.wording import described
from .by_value import ByValue


def check_numbers(
    num_steps: Any, batch_size: Any, validate_every: Any, patience: Any, ema_decay: Any
) -> tuple[int, int | None, int, int | None, float]:
    """The numbers as Python numbers; raises `ValueError` for a number out of range."""
    if ema_decay is None or isinstance(ema_decay, bool) or np.ndim(ema_decay):
        raise ValueError(f"ema_decay must be a number; got {described(ema_decay)}.")
    check_number("ema_decay", ema_decay)
    check_fraction("ema_decay", ema_decay)
    return (
        check_count("num_steps", num_steps, 0),
        None if batch_size is None else check_count("batch_size", batch_size),
        check_count("validate_every", validate_every),
        None if patience is None else check_count("patience", patience),
        float(ema_decay),
    )


def compared_by_value(optimizer: GradientTransformation) -> GradientTransformation:
    """The optimiser with functions that compare equal to the functions of an optimiser made in the same way."""
    import optax

    if not (callable(getattr(optimizer, "init", None)) and callable(getattr(optimizer, "update", None))):
        raise ValueError(
            f"optimizer must be an optax transformation, with init and update; got {described(optimizer)}."
        )
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
