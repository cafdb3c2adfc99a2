"""Functions that compare equal if they compute the same, so that compiled programs are found again."""

import functools
import types
from collections.abc import Callable
from typing import Any


class ByValue:
    """A function that equals another with the same code, defaults and closed-over values.

    `optax.adam(1e-3)` makes new functions at each call. A compiled step is stored under its optimiser, so without this
    comparison a loop of `fit` would compile, and keep, one program for each call.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        # The current values: a function whose variables change later compares as a different function.
        self.value = _value(function, ())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ByValue) and self.value == other.value

    def __hash__(self) -> int:
        return hash(self.value)


class _Same:
    """Compares an object by identity, and keeps it alive so that its identity is not used again."""

    def __init__(self, held: Any) -> None:
        self.held = held

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.held is other.held

    def __hash__(self) -> int:
        return id(self.held)


def _value(x: Any, above: tuple[int, ...]) -> Any:
    """A hashable value of `x`; `above` holds the identities of the enclosing functions, which may be recursive."""
    if x is None or isinstance(x, bool | int | str | bytes | type):
        return type(x), x
    if isinstance(x, float):
        return float, x.hex()
    if id(x) in above:
        return "above", above.index(id(x))
    inside = (*above, id(x))
    if isinstance(x, tuple | list):
        return type(x), tuple(_value(item, inside) for item in x)
    if isinstance(x, dict):
        return dict, tuple((_value(name, inside), _value(item, inside)) for name, item in x.items())
    if isinstance(x, functools.partial):
        return functools.partial, _value((x.func, x.args, x.keywords), inside)
    if isinstance(x, types.MethodType):
        return types.MethodType, _value((x.__func__, x.__self__), inside)
    if isinstance(x, types.FunctionType):
        cells = tuple(_cell(cell, inside) for cell in x.__closure__ or ())
        defaults = _value((x.__defaults__, x.__kwdefaults__), inside)
        return x.__code__, _Same(x.__globals__), defaults, cells
    return _Same(x)


def _cell(cell: types.CellType, inside: tuple[int, ...]) -> Any:
    try:
        return _value(cell.cell_contents, inside)
    except ValueError:
        return "empty"
