"""Checks the arguments of constructors and public functions against their annotations before they run.

Ranges and shapes are checked by the constructors and functions themselves. Tracebacks show the caller's own code only.
"""

import functools
import inspect
import os
import typing
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import diffrax as dfx
import equinox as eqx

from .checks import Check, rule_of
from .random import as_threefry
from .tracebacks import shortened
from .typing import KeyArray
from .wording import described

P = ParamSpec("P")
R = TypeVar("R")


class Rules(typing.NamedTuple):
    """The checks of the arguments of one function."""

    names: tuple[str, ...]
    """The parameters in order."""
    by_name: dict[str, Check]

    def check(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for name, value in (*zip(self.names, args, strict=False), *kwargs.items()):
            if name in self.by_name:
                self.by_name[name](name, value)


@functools.cache
def rules_of(function: Callable[..., Any], skipped: str | None = None) -> Rules:
    """The checks of a function's arguments, for the arguments that have one."""
    hints = typing.get_type_hints(function)
    names = tuple(inspect.signature(function).parameters)
    # A verb raises its own, more specific error for an argument that is not a model.
    rules = {name: _rule_of(hints[name]) for name in names if name in hints and name != skipped}
    return Rules(names, {name: rule for name, rule in rules.items() if rule is not None})


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """A public function that checks its arguments first, and whose tracebacks show the caller's own code only.

    `JAX_TRACEBACK_FILTERING=off` shows all frames, as it does for JAX.
    """

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            rules_of(function, "model").check(args, kwargs)
            return function(*args, **kwargs)
        except Exception as error:
            short = shortened(error, args)
        raise short from None

    return wrapper


if TYPE_CHECKING:
    from equinox._module._module import _ModuleMeta as Checked, _ModuleMeta as CheckedSolver
else:

    class Checked(type(eqx.Module)):
        """The metaclass of the objects that users create: checks the arguments of the constructors of this package."""

        def __call__(cls, *args: Any, **kwargs: Any) -> Any:
            try:
                if cls.__module__.startswith("flowrax."):
                    rules_of(cls.__init__).check((cls, *args), kwargs)
                return super().__call__(*args, **kwargs)
            except Exception as error:
                short = shortened(error, ())
            raise short from None

    class CheckedSolver(Checked, type(dfx.AbstractSolver)):
        """The same for solvers, which have a metaclass of diffrax."""


def check_path(name: str, path: Any) -> None:
    """Raises `ValueError` unless `path` is the path of a file; a number would be taken for a file descriptor."""
    if not isinstance(path, str | os.PathLike) or not str(path):
        raise ValueError(f'{name} must be the path of a file, such as "run.frx"; got {described(path)}.')


def _rule_of(annotation: Any) -> Check | None:
    """The check of values with this annotation, including random keys."""
    if annotation == KeyArray:
        return _check_key
    if KeyArray in typing.get_args(annotation):
        return lambda name, value: None if value is None else _check_key(name, value)
    return rule_of(annotation)


def _check_key(name: str, value: Any) -> None:
    as_threefry(value, name)
