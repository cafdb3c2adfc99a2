"""Checks of arguments that fail before compilation, with one short sentence: what is wrong, where, and the remedy."""

import dataclasses
import functools
import operator
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from .typing import Array, DType, Integer, Network, PyTree, Shape, Times
from .wording import described, phrase, shown


def is_traced(*trees: Any) -> bool:
    """Whether any leaf is a tracer of a JAX transformation."""
    # Each verb calls this several times, and a loop is cheaper than a generator.
    for leaf in jax.tree.leaves(trees):
        if isinstance(leaf, Tracer):
            return True
    return False


def check_shape(name: str, got: Shape, expected: Shape) -> None:
    """Raises `ValueError` unless the two shapes are equal."""
    if tuple(got) != tuple(expected):
        raise ValueError(f"{name} has shape {tuple(got)} but {tuple(expected)} is expected.")


def check_broadcast(name: str, got: Shape, event_shape: Shape) -> None:
    """Raises `ValueError` unless an array of shape `got` broadcasts to an event."""
    if len(got) > len(event_shape) or any(a not in (1, b) for a, b in zip(got[::-1], event_shape[::-1], strict=False)):
        raise ValueError(f"{name} of shape {got} does not broadcast to an event, {event_shape}.")


def check_batch(name: str, x: Array | np.ndarray, event_shape: Shape, size: int | None = None) -> None:
    """Raises `ValueError` unless `x` has shape `(n, *event_shape)`, with `n = size` if `size` is given."""
    if x.ndim != len(event_shape) + 1 or tuple(x.shape[1:]) != tuple(event_shape):
        raise ValueError(
            f"{name} has shape {tuple(x.shape)} but (n, {', '.join(map(str, event_shape))}) is expected; "
            f"the model's events have shape {tuple(event_shape)}."
        )
    if size is not None and x.shape[0] != size:
        raise ValueError(f"{name} has {x.shape[0]} rows but {size} are expected.")


def check_time(name: str, t: float) -> float:
    """Raises `ValueError` unless `0 <= t <= 1`; returns `t` as a float."""
    if not 0.0 <= t <= 1.0:
        raise ValueError(f"{name}={t} is outside [0, 1]; t=0 is noise and t=1 is data.")
    return float(t)


def _numbers(value: Any) -> np.ndarray | None:
    """The concrete numbers of `value`; None for traced values and for values that are not numeric."""
    if value is None or isinstance(value, str | type) or is_traced(value) or np.ma.is_masked(value):
        return None
    try:
        array = np.asarray(value)
        return array.astype(np.float64) if array.dtype.kind in "biuf" or array.dtype == jnp.bfloat16 else None
    except (TypeError, ValueError):
        return None


def _check_each(name: str, value: Any, is_good: Callable[[np.ndarray], Any], rule: str) -> None:
    """Raises `ValueError` with `rule` unless all elements are numbers that satisfy it; ignores traced values."""
    if value is None or is_traced(value):
        return
    numbers = _numbers(value)
    if numbers is None:
        raise ValueError(f"{name} must be a number; got {described(value)}.")
    if np.any(np.isnan(numbers)):
        raise ValueError(f"{name} {'holds NaN' if numbers.ndim else 'must be a number'}; got {shown(value)}.")
    if not np.all(is_good(numbers)):
        raise ValueError(f"{name} {rule}; got {shown(value)}.")


def check_number(name: str, value: Any) -> None:
    """Raises `ValueError` for NaN and infinity; traced values are not checked."""
    _check_each(name, value, np.isfinite, "must be finite")


def check_fraction(name: str, value: Any) -> None:
    """Raises `ValueError` for a value outside [0, 1]; traced values are not checked."""
    _check_each(name, value, lambda x: (x >= 0) & (x <= 1), "must lie in [0, 1]")


def check_not_negative(name: str, value: Any, *, infinite: bool = False) -> None:
    """Raises `ValueError` for a value that is negative, or is infinite unless `infinite`; ignores traced values."""
    _check_each(name, value, lambda x: x >= 0, "must not be negative")
    if not infinite:
        check_number(name, value)


def check_positive(name: str, value: Any, *, infinite: bool = False) -> None:
    """Raises `ValueError` for a value that is not positive, or is infinite unless `infinite`; ignores traced values."""
    _check_each(name, value, lambda x: x > 0, "must be positive")
    if not infinite:
        check_number(name, value)


def check_between(name: str, value: Any, low: float, high: float) -> None:
    """Raises `ValueError` unless `low < value < high`; traced values are not checked."""
    _check_each(name, value, lambda x: (x > low) & (x < high), f"must lie between {low:g} and {high:g}, both excluded")


def check_increasing(low: str, low_value: Any, high: str, high_value: Any) -> None:
    """Raises `ValueError` unless the first value is below the second; traced values are not checked."""
    for name, value in ((low, low_value), (high, high_value)):
        _check_each(name, value, lambda x: ~np.isnan(x), "must be a number")
    first, second = _numbers(low_value), _numbers(high_value)
    if first is not None and second is not None and not np.all(first < second):
        raise ValueError(f"{low}={shown(low_value)} is not below {high}={shown(high_value)}.")


def check_count(name: str, value: Any, least: int | None = 1) -> int:
    """The value as an integer; raises `ValueError` for one below `least`, for fractions, truth values and strings."""
    if isinstance(value, Tracer):
        raise ValueError(f"{name} must be known before compilation, but it is traced; make it static in jax.jit.")
    try:
        count = None if isinstance(value, bool | np.bool_) else operator.index(value)
    except TypeError:
        count = None
    if count is None:
        raise ValueError(f"{name} must be an integer; got {described(value)}.")
    if least is not None and count < least:
        raise ValueError(f"{name} must be at least {least}; got {count}.")
    if count >= 2**31:
        raise ValueError(f"{name} must be below 2^31; got {count}.")
    return count


def plain_int(value: Integer | None) -> Any:
    """A NumPy integer as a Python integer, so that it may be static; other values unchanged, for `__check_init__`."""
    return int(value) if isinstance(value, np.integer) else value


def check_grid(grid: Any) -> int | None:
    """The number of steps in `grid`, or None if it holds times; raises `ValueError` for anything else."""
    if is_traced(grid):
        return None
    numbers = _numbers(grid)
    if numbers is None or isinstance(grid, bool) or not (numbers.ndim == 1 or isinstance(grid, int | np.integer)):
        raise ValueError(f"grid must be a number of steps, at least one, or an array of times; got {described(grid)}.")
    if numbers.ndim:
        check_finite("grid", numbers)
        return None
    count = check_count("grid", grid, None)
    if count < 1:
        raise ValueError(f"grid={count} steps are too few; at least 1 is needed.")
    return count


def check_instance(name: str, value: Any, base: Any) -> None:
    """Raises `ValueError` unless `value` is an instance of `base`, a class or a union of classes."""
    if not isinstance(value, base):
        wanted = " or ".join(dict.fromkeys(phrase(cls) for cls in typing.get_args(base) or (base,)))
        raise ValueError(f"{name} must be {wanted}; got {described(value)}.")


def check_methods(name: str, value: Any, methods: tuple[str, ...]) -> None:
    """Raises `ValueError` unless `value` is an object that has these methods."""
    missing = [method for method in methods if not callable(getattr(value, method, None))]
    if missing or isinstance(value, type):
        lacks = f", without {', '.join(missing)}" if missing and not isinstance(value, str | type) else ""
        raise ValueError(
            f"{name} must be an object with the methods {', '.join(methods)}; got {described(value)}{lacks}."
        )


def check_names(name: str, given: Collection[str], known: Collection[str]) -> None:
    """Raises `ValueError` for names of parts that do not exist."""
    unknown = sorted(str(part) for part in given if part not in known)
    if unknown:
        raise ValueError(f"{name}: there is no part {', '.join(unknown)}; the model has {', '.join(sorted(known))}.")


def check_function(name: str, value: Any) -> None:
    """Raises `ValueError` for objects that cannot be called, and for classes."""
    if isinstance(value, type) or not callable(value):
        raise ValueError(f"{name} must be a function or a module that is called as one; got {described(value)}.")


def check_network(network: Any, name: str = "network") -> None:
    """Raises `ValueError` for objects that cannot be called as `network(t, x, condition)`, such as a class."""
    if not callable(network) or isinstance(network, type):
        raise ValueError(f"{name} must be a function network(t, x, condition) or a module; got {described(network)}.")


def check_flag(name: str, value: Any) -> None:
    """Raises `ValueError` unless `value` is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name} must be True or False; got {described(value)}.")


def check_event_shape(shape: Any, name: str = "shape") -> Shape:
    """The shape of an event as a tuple of integers; raises `ValueError` for anything else."""
    if not isinstance(shape, tuple | list):
        raise ValueError(f"{name} must be a tuple of integers such as (2,); got {described(shape)}.")
    return tuple(check_count(name, size, 0) for size in shape)


Check = Callable[[str, Any], Any]
"""Raises `ValueError` with the name of an argument for a value that does not match its annotation."""


def rule_of(annotation: Any) -> Check | None:
    """The check of values with this annotation; None for arrays and conditions, which are checked where they are used.

    It covers modules, functions, integers, numbers, truth values, shapes, and dictionaries and sequences of these.
    """
    options = _options(annotation)
    check = _rule_of_all([kind for kind in options if kind is not type(None)])
    if check is None or type(None) not in options:
        return check
    return lambda name, value: None if value is None else check(name, value)


def _options(annotation: Any) -> tuple[Any, ...]:
    is_union = isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union
    return typing.get_args(annotation) if is_union else (annotation,)


def _rule_of_all(kinds: list[Any]) -> Check | None:
    """The check for values of one of several kinds."""
    modules = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, eqx.Module)]
    functions = [kind for kind in kinds if typing.get_origin(kind) is Callable]
    if modules and all(kind in modules or kind is bool for kind in kinds):
        base = functools.reduce(operator.or_, kinds)
        return lambda name, value: check_instance(name, value, base)
    if kinds == [Network]:
        return lambda name, value: check_network(value, name)
    if functions and len(functions) + len(modules) == len(kinds):
        return check_function
    if float in kinds:
        return _check_numbers if Array in kinds or kinds == [*_options(Times)] else _check_one_number
    if kinds == [bool]:
        return check_flag
    if int in kinds and set(kinds) <= {int, np.integer}:
        return lambda name, value: check_count(name, value, None)
    if kinds == [Shape]:
        return lambda name, value: check_event_shape(value, name)
    if len(kinds) == 1 and typing.get_origin(kinds[0]) in (dict, Mapping, tuple, Sequence):
        return _rule_of_parts(typing.get_origin(kinds[0]), typing.get_args(kinds[0]))
    return None


def _rule_of_parts(container: Any, args: tuple[Any, ...]) -> Check | None:
    """The check for dictionaries with names as keys, or for sequences whose elements are of one kind."""
    if container in (dict, Mapping):
        of_part = rule_of(args[1])

        def check_parts(name: str, value: Any) -> None:
            if not isinstance(value, Mapping):
                raise ValueError(f"{name} must be a dictionary with names as keys; got {described(value)}.")
            if of_part is not None:
                for part, one in value.items():
                    of_part(f"{name}[{part!r}]", one)

        return check_parts
    of_one = rule_of(args[0]) if len(set(args) - {...}) == 1 else None
    if of_one is None:
        return None

    def check_each(name: str, value: Any) -> None:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{name} must be a tuple; got {described(value)}.")
        for index, element in enumerate(value):
            of_one(f"{name}[{index}]", element)

    return check_each


def _check_numbers(name: str, value: Any) -> None:
    """Raises `ValueError` unless all elements are numbers, not NaN; traced values are not checked."""
    if value is None or isinstance(value, bool | list | tuple):
        raise ValueError(f"{name} must be a number; got {described(value)}.")
    if isinstance(value, int) and abs(value) >= 2**31:
        raise ValueError(f"{name}={value} is too large for an integer; write {float(value):g}.")
    _check_each(name, value, lambda x: ~np.isnan(x), "must be a number")


def _check_one_number(name: str, value: Any) -> None:
    if getattr(value, "ndim", 0):
        raise ValueError(f"{name} must be one number; got {described(value)}.")
    _check_numbers(name, value)


@functools.cache
def _rules_of_fields(cls: type) -> dict[str, Check]:
    """The checks of the fields of a class of this package, by name."""
    if not cls.__module__.startswith(__name__.partition(".")[0]):
        return {}
    hints = typing.get_type_hints(cls)
    rules = {field.name: rule_of(hints[field.name]) for field in dataclasses.fields(cls)}
    return {name: rule for name, rule in rules.items() if rule is not None}


def check_fields(module: eqx.Module) -> None:
    """Raises `ValueError` for a field whose value is not of its declared kind, such as NaN, or a class for an instance.

    Abstract base classes call this in `__check_init__`, so that it applies to all classes derived from them in the
    package. The classes check the ranges of their numbers.
    """
    for name, rule in _rules_of_fields(type(module)).items():
        rule(name, getattr(module, name))


def check_interval(t_min: float, t_max: float) -> None:
    """Raises `ValueError` unless `0 <= t_min < t_max <= 1`."""
    check_time("t_min", t_min)
    check_time("t_max", t_max)
    if not t_min < t_max:
        raise ValueError(f"t_min={t_min} is not below t_max={t_max}.")


def check_finite(name: str, x: Any) -> None:
    """Raises `ValueError` if a concrete `x` contains NaN or infinity; traced values are not checked."""
    if is_traced(x):
        return
    bad = int(np.sum(~np.isfinite(np.asarray(x, dtype=np.float64))))
    if bad:
        raise ValueError(f"{name} holds {bad} NaN or infinite values; remove or impute them first.")


def check_std(std: Array) -> None:
    """Raises `ValueError` for a concrete standard deviation that is negative or NaN; zero (a constant) is allowed."""
    if not is_traced(std) and not np.all(np.asarray(std) >= 0):
        raise ValueError(f"std must not be negative; its smallest element is {np.min(np.asarray(std))}.")
    check_number("std", std)


def time_dtype(dtype: DType) -> DType:
    """The dtype of times for a state of this dtype: the same, but at least float32."""
    return jnp.dtype(dtype if jnp.finfo(dtype).bits >= 32 else jnp.float32)


def in_single(x: PyTree) -> PyTree:
    """Casts floating arrays of less than 32 bits to float32, in which sums and losses are computed."""

    def one(leaf: Array) -> Array:
        return leaf.astype(time_dtype(leaf.dtype)) if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf

    return jax.tree.map(one, x)
