"""The numeric arguments of `fit`, and its default optimiser."""

import operator
from typing import Any

from .._base.typing import GradientTransformation
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

    return optax.GradientTransformationExtraArgs(ByValue(optimizer.init), ByValue(optimizer.update))


def default_optimizer(num_steps: int) -> GradientTransformation:
    """Adam with a warm-up and a cosine decay to zero."""
    import optax

    warm = min(500, max(1, num_steps // 10))
    return optax.adam(optax.warmup_cosine_decay_schedule(0.0, 1e-3, warm, max(num_steps, warm + 1)))
