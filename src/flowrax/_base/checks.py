"""Checks of arguments that fail before compilation, with one short sentence: what is wrong, where, and the remedy."""

import dataclasses
import functools
import inspect
import operator
import re
import types
import typing
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from .typing import Array, DType, PyTree, Shape


def is_traced(*trees: Any) -> bool:
    """Whether any leaf is a tracer of a JAX transformation."""
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(trees))


def check_shape(name: str, got: Shape, expected: Shape) -> None:
    """Raises `ValueError` unless the two shapes are equal."""
    if tuple(got) != tuple(expected):
        raise ValueError(f"{name} has shape {tuple(got)} but {tuple(expected)} is expected.")


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
    """The concrete numbers of `value`; None for traced values and for what is not numeric, such as placeholders."""
    if value is None or isinstance(value, str | type) or is_traced(value):
        return None
    try:
        array = np.asarray(value)
        return array.astype(np.float64) if array.dtype.kind in "biuf" or array.dtype == jnp.bfloat16 else None
    except (TypeError, ValueError):
        return None


def _shown(value: Any) -> str:
    """A number for a message: itself, or an array on one line."""
    return (
        np.array2string(np.asarray(value), threshold=6, separator=", ").replace("\n", "")
        if np.ndim(value)
        else str(value)
    )


def _check_each(name: str, value: Any, is_good: Callable[[np.ndarray], Any], rule: str) -> None:
    """Raises `ValueError` with `rule` unless all elements are numbers that are good; ignores traced values."""
    if isinstance(value, str):
        raise ValueError(f"{name} must be a number; got {value!r}.")
    numbers = _numbers(value)
    if numbers is None:
        return
    if np.any(np.isnan(numbers)):
        raise ValueError(f"{name} {'holds NaN' if numbers.ndim else 'must be a number'}; got {_shown(value)}.")
    if not np.all(is_good(numbers)):
        raise ValueError(f"{name} {rule}; got {_shown(value)}.")


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
        raise ValueError(f"{low}={_shown(low_value)} is not below {high}={_shown(high_value)}.")


def check_count(name: str, value: Any, least: int | None = 1) -> int:
    """The value as an integer; raises `ValueError` for one below `least`, for fractions, truth values and strings."""
    if isinstance(value, Tracer):
        raise ValueError(f"{name} must be known before compilation, but it is traced; make it static in jax.jit.")
    try:
        count = None if isinstance(value, bool | np.bool_) else operator.index(value)
    except TypeError:
        count = None
    if count is None:
        raise ValueError(f"{name} must be an integer; got {_described(value)}.")
    if least is not None and count < least:
        raise ValueError(f"{name} must be at least {least}; got {count}.")
    return count


def plain_int(value: Any) -> Any:
    """A NumPy integer as Python's, so that it may be static; anything else as it is, for `__check_init__` to judge."""
    return int(value) if isinstance(value, np.integer) else value


def check_grid(grid: Any) -> int | None:
    """The number of steps that `grid` asks for, or None where it holds times; raises `ValueError` for anything else."""
    if isinstance(grid, Tracer) or np.ndim(grid):
        if not is_traced(grid):
            check_finite("grid", grid)
        return None
    if isinstance(grid, bool | np.bool_ | float | np.floating | str | type):
        raise ValueError(f"grid must be a number of steps, at least one, or an array of times; got {_described(grid)}.")
    count = check_count("grid", grid, None)
    if count < 1:
        raise ValueError(f"grid={count} steps are too few; at least 1 is needed.")
    return count


def check_instance(name: str, value: Any, base: Any) -> None:
    """Raises `ValueError` unless `value` is an instance of `base`, a class or a union of classes."""
    if not isinstance(value, base):
        wanted = " or ".join(dict.fromkeys(_phrase(cls) for cls in typing.get_args(base) or (base,)))
        raise ValueError(f"{name} must be {wanted}; got {_described(value)}.")


def check_methods(name: str, value: Any, methods: tuple[str, ...]) -> None:
    """Raises `ValueError` unless `value` is an object that has these methods."""
    missing = [method for method in methods if not callable(getattr(value, method, None))]
    if missing or isinstance(value, type):
        lacks = f", without {', '.join(missing)}" if missing and not isinstance(value, str | type) else ""
        raise ValueError(
            f"{name} must be an object with the methods {', '.join(methods)}; got {_described(value)}{lacks}."
        )


def check_names(name: str, given: Collection[str], known: Collection[str]) -> None:
    """Raises `ValueError` for names of parts that do not exist."""
    unknown = sorted(str(part) for part in given if part not in known)
    if unknown:
        raise ValueError(f"{name}: there is no part {', '.join(unknown)}; the model has {', '.join(sorted(known))}.")


def check_function(name: str, value: Any) -> None:
    """Raises `ValueError` for what cannot be called, and for a class."""
    if isinstance(value, type) or not callable(value):
        raise ValueError(f"{name} must be a function or a module that is called as one; got {_described(value)}.")


def check_network(network: Any) -> None:
    """Raises `ValueError` for what cannot be called as `network(t, x, condition)`, such as a class."""
    if type(network) is not object and (not callable(network) or isinstance(network, type)):
        raise ValueError(f"network must be a function network(t, x, condition) or a module; got {_described(network)}.")


def check_event_shape(shape: Any) -> Shape:
    """The shape of an event as a tuple of integers; raises `ValueError` for anything else."""
    if isinstance(shape, str | type) or not hasattr(shape, "__iter__"):
        raise ValueError(f"shape must be a tuple of integers such as (2,); got {_described(shape)}.")
    return tuple(check_count("shape", size, 0) for size in shape)


# The phrases of messages that do not follow from the names of classes.
_PHRASES = {
    "SaveAt": "a diffrax.SaveAt such as diffrax.SaveAt(ts=jnp.linspace(0, 1, 11))",
    "AbstractModel": "a model such as Model(network, schedule, shape=...)",
    "AbstractDivergence": "a divergence such as Exact()",
    "AbstractLastStep": "a last step such as Tweedie()",
    "AbstractTimes": "a distribution of times",
    "AbstractUnitTimes": "a distribution of times on [0, 1]",
    "AbstractDiffusion": "a diffusion coefficient",
    "AbstractGuidance": "a guidance rule",
    "AbstractDynamics": "a dynamics such as ProbabilityFlow()",
    "AbstractContinuousModel": "a model of continuous events",
    "AbstractCategoricalModel": "a model of categorical events",
    "AbstractProbes": "a distribution of probes",
}


def _phrase(cls: type) -> str:
    """The kind of object that a class stands for: `AbstractStepSizeController` of diffrax is "a diffrax step ..."."""
    if cls.__name__ in _PHRASES:
        return _PHRASES[cls.__name__]
    stem = cls.__name__.removeprefix("Abstract")
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", stem).lower() if stem != cls.__name__ else stem
    words = f"diffrax {words}" if cls.__module__.startswith("diffrax") else words
    return f"{'an' if words[0] in 'aeiouAEIOU' else 'a'} {words}"


def _described(value: Any) -> str:
    """What a message says it got."""
    if isinstance(value, type):
        try:
            parameters = inspect.signature(value).parameters.values()
            bare = all(p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)
        except (TypeError, ValueError):
            bare = False
        return f"the class {value.__name__}: write {value.__name__}({'' if bare else '...'})"
    if isinstance(value, str):
        return f"the string {value!r}"
    if value is None or isinstance(value, bool | int | float | np.number):
        return str(value)
    return f"an object of type {type(value).__name__}"


class _Kind(NamedTuple):
    """What the values of a field must be, as far as its annotation says."""

    base: Any
    """The modules of which the value must be one, or None."""
    is_function: bool
    is_integer: bool
    is_number: bool


@functools.cache
def _kinds(cls: type) -> dict[str, _Kind]:
    """By field of a class of this package, what its annotation asks for."""
    if not cls.__module__.startswith(__name__.partition(".")[0]):
        return {}
    hints, found = typing.get_type_hints(cls), {}
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        is_union = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
        options = set(typing.get_args(hint) if is_union else (hint,)) - {type(None)}
        modules = [kind for kind in options if isinstance(kind, type) and issubclass(kind, eqx.Module)]
        base = functools.reduce(operator.or_, modules) if modules and len(modules) == len(options) else None
        functions = [kind for kind in options if typing.get_origin(kind) is Callable]
        is_function = bool(functions) and len(functions) + len(modules) == len(options)
        found[field.name] = _Kind(base, is_function, options == {int}, float in options)
    return found


def check_fields(module: eqx.Module) -> None:
    """Raises `ValueError` for a field whose value is not of its declared kind: NaN, a class in place of an object, ...

    Abstract base classes call this in `__check_init__`, so that it holds for all classes of the package below them. It
    covers fields that are declared as other modules, functions, integers or floats; the classes check their ranges.
    """
    for name, kind in _kinds(type(module)).items():
        value = getattr(module, name)
        # Placeholders of JAX's and Equinox's tree functions are plain objects.
        if value is None or type(value) is object or is_traced(value):
            continue
        if kind.base is not None:
            check_instance(name, value, kind.base)
        elif kind.is_function:
            check_function(name, value)
        elif kind.is_integer:
            check_count(name, value, None)
        elif kind.is_number:
            _check_each(name, value, lambda x: ~np.isnan(x), "must be a number")


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
