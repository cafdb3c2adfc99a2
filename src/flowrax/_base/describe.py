"""Describes a PyTree in plain text, `{path: text}`, so that a file can be compared with the object it is read into.

The description covers classes, fields (static ones too), numbers, strings, dtypes and functions. Arrays are described
by dtype and shape; those that are not leaves of the PyTree, such as arrays in static fields, also by a digest of their
values. Functions are described by name, and lambdas and local functions by their code and the values they close over.
No text contains a memory address, so equal objects have equal descriptions in every process.
"""

import dataclasses
import enum
import functools
import hashlib
import inspect
import platform
import re
import sys
import types
from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .version import __version__

Description = dict[str, str]
"""The text of each path, such as `{".target": "flowrax.model.target:Noise"}`."""

_SCALARS = (bool, int, float, complex, str, bytes, type(None), type(Ellipsis))
_NAME = re.compile(r"([\w.]+):([\w.<>]+)")
_LONGEST = 160
_CODE = ".__code__"


def describe(tree: Any, name: str = "", *, by_value: bool = False) -> Description:
    """The description of a PyTree.

    **Arguments:**

    - `tree`: any PyTree.
    - `name`: the start of all paths.
    - `by_value`: whether arrays are described by their values too, and not only by dtype and shape.

    **Returns:** the text of each path.
    """
    return dict(_walk(tree, name, by_value, ()))


def is_stored(leaf: Any) -> bool:
    """Whether a leaf is an array of numbers or of PRNG keys, whose values are stored in a file."""
    if isinstance(leaf, jax.Array):
        return True
    return isinstance(leaf, np.ndarray) and leaf.dtype.kind not in "OSUMm" and leaf.dtype.names is None


def raw(array: Any) -> memoryview:
    """The bytes of an array or of PRNG keys."""
    if isinstance(array, jax.Array) and jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def versions(*descriptions: Description) -> dict[str, str]:
    """The versions of Python, of flowrax and of all packages that the descriptions name."""
    found = {"python": platform.python_version(), "flowrax": __version__}
    texts = [text for description in descriptions for text in description.values()]
    packages = {match[1].partition(".")[0] for text in texts if (match := _NAME.match(text))}
    for package in sorted(packages | {"jax", "equinox", "numpy"}):
        version = getattr(sys.modules.get(package), "__version__", None)
        if isinstance(version, str):
            found.setdefault(package, version)
    return found


def differences(
    file: Description, here: Description, old: dict[str, str], new: dict[str, str]
) -> list[tuple[str, str | None, str | None]]:
    """The paths at which two descriptions differ, with both texts; None for a description without that path.

    Nothing is reported below a path that differs. `old` and `new` are the [`versions`][] of both. A package whose
    versions differ may have moved its classes to other modules and rewritten its local functions, for which only the
    values that both close over are compared.
    """
    changed = {name for name in old if name in new and old[name] != new[name]}
    found: list[tuple[str, str | None, str | None]] = []
    closed: list[str] = []
    rewritten: list[str] = []
    for path in dict.fromkeys([*here, *file]):
        if any(_below(path, start) for start in closed):
            continue
        one, other = file.get(path), here.get(path)
        if one is None or other is None or not _agree(one, other, changed):
            closed.append(path)
            if path.endswith(_CODE) and ("python" in changed or path.removesuffix(_CODE) in rewritten):
                continue
            if (one is None or other is None) and any(_below(path, start) for start in rewritten):
                continue
            found.append((path, one, other))
        elif "<" in one and (match := _NAME.fullmatch(one)) and match[1].partition(".")[0] in changed:
            rewritten.append(path)
    return found


def _below(path: str, start: str) -> bool:
    return path.startswith(start) and path[len(start) : len(start) + 1] in (".", "[")


def _agree(one: str, other: str, changed: set[str]) -> bool:
    if one == other:
        return True
    names = _NAME.fullmatch(one), _NAME.fullmatch(other)
    if names[0] is None or names[1] is None:
        return _as_number(one) is not None and _as_number(one) == _as_number(other)
    (module, name), (other_module, other_name) = names[0].groups(), names[1].groups()
    if "<" in name and "<" in other_name:
        # Where a local function was made does not matter; its code and closure are compared on their own.
        return name.rpartition(".")[2] == other_name.rpartition(".")[2]
    package, other_package = module.partition(".")[0], other_module.partition(".")[0]
    # Classes of a script belong to the module `__main__`, except in a program that imports the script.
    moved = "__main__" in (module, other_module) or (package == other_package and package in changed)
    return name == other_name and moved


def _as_number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


Parts = Iterator[tuple[str, str]]


def _walk(node: Any, path: str, fixed: bool, above: tuple[int, ...]) -> Parts:
    """Yields the text of `node` and of everything below it; with `fixed`, arrays are described by value."""
    if id(node) in above and not isinstance(node, _SCALARS):
        yield path, "a reference to an object that contains it"
        return
    above = (*above, id(node))
    if isinstance(node, jax.Array | np.ndarray):
        yield path, _array(node, fixed)
    elif (text := _plain(node)) is not None:
        yield path, _shortened(text)
    elif isinstance(node, functools.partial):
        yield path, _class(node)
        inner = fixed or not isinstance(node, jax.tree_util.Partial)
        yield from _walk(node.func, f"{path}.func", True, above)
        yield from _walk(node.args, f"{path}.args", inner, above)
        yield from _walk(node.keywords, f"{path}.keywords", inner, above)
    elif isinstance(node, types.MethodType):
        yield path, "a bound method"
        yield from _walk(node.__func__, f"{path}.__func__", True, above)
        yield from _walk(node.__self__, f"{path}.__self__", True, above)
    elif callable(function := _unwrapped(node)) and (name := _function_name(function)):
        yield path, name
        if "<" in name:
            yield from _local_function(function, path, above)
    else:
        yield from _object(node, path, fixed, above)


def _object(node: Any, path: str, fixed: bool, above: tuple[int, ...]) -> Parts:
    """Describes containers, modules, dataclasses and other objects: the class, then its contents."""
    if isinstance(node, tuple) and not hasattr(node, "_fields") or isinstance(node, list):
        yield path, f"{_class(node)} of {len(node)}"
    else:
        yield path, _class(node)
    for suffix, child, static in _children(node):
        yield from _walk(child, f"{path}{suffix}", fixed or static, above)


def _children(node: Any) -> Iterator[tuple[str, Any, bool]]:
    """The contents of an object: the end of each path, the child, and whether it is outside the PyTree."""
    level = jax.tree_util.default_registry.flatten_one_level(node)
    in_tree = level is not None
    if dataclasses.is_dataclass(node):
        for field in dataclasses.fields(node):
            static = not in_tree or bool(field.metadata.get("static", False))
            yield f".{field.name}", getattr(node, field.name, None), static
    elif isinstance(node, dict):
        for key, child in node.items():
            yield f"[{key!r}]", child, not in_tree
    elif isinstance(node, tuple | list):
        names = getattr(node, "_fields", None)
        for index, child in enumerate(node):
            yield (f"[{index}]" if names is None else f".{names[index]}"), child, not in_tree
    elif isinstance(node, set | frozenset):
        for index, child in enumerate(sorted(node, key=repr)):
            yield f"[{index}]", child, True
    elif level is not None:
        for index, child in enumerate(level[0]):
            yield f"[{index}]", child, False
        yield ".auxiliary", level[1], True
    elif type(node).__repr__ is not object.__repr__:
        yield ".repr", _no_address(repr(node)), True
    else:
        for name, child in getattr(node, "__dict__", {}).items():
            if not isinstance(inspect.getattr_static(type(node), name, None), functools.cached_property):
                yield f".{name}", child, True


def _local_function(function: Any, path: str, above: tuple[int, ...]) -> Parts:
    """The code of a lambda or local function, its defaults, and the values that it refers to."""
    code = function.__code__
    yield f"{path}{_CODE}", _digest(_code(code))
    if function.__defaults__ or function.__kwdefaults__:
        yield from _walk((function.__defaults__, function.__kwdefaults__), f"{path}.__defaults__", True, above)
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        try:
            value = cell.cell_contents
        except ValueError:  # The variable has no value yet.
            continue
        yield from _walk(value, f"{path}.{name}", True, above)
    for name in _global_names(code):
        value = function.__globals__.get(name)
        if isinstance(value, (*_SCALARS, jax.Array, np.ndarray)) or (callable(value) and not isinstance(value, type)):
            if value is not None:
                yield from _walk(value, f"{path}.{name}", True, above)


def _global_names(code: types.CodeType) -> list[str]:
    """The names that a function may read from its module, attributes included."""
    inner = [_global_names(constant) for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return sorted({*code.co_names, *(name for names in inner for name in names)})


def _code(code: types.CodeType) -> bytes:
    parts = [code.co_code, repr((code.co_names, code.co_varnames, code.co_freevars)).encode()]
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            parts.append(_code(constant))
        else:
            # The order of a set differs between processes.
            parts.append(repr(sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant).encode())
    return b"\0".join(parts)


def _plain(node: Any) -> str | None:
    """The text of values without parts, and of sequences of such values; None for everything else."""
    if isinstance(node, enum.Enum):
        return f"{_class(node)}.{node.name}"
    if isinstance(node, type):
        return f"{node.__module__}:{node.__qualname__}"
    if isinstance(node, types.ModuleType):
        return f"the module {node.__name__}"
    if isinstance(node, np.generic):
        return _plain(node.item()) if isinstance(node.item(), _SCALARS) else str(node)
    if isinstance(node, np.dtype):
        return str(node)
    if isinstance(node, jax.ShapeDtypeStruct):
        return f"{node.dtype}{list(node.shape)} without values"
    if type(node) in _SCALARS:
        return repr(node)
    if type(node) in (tuple, list) and node and all(type(child) in _SCALARS for child in node):
        return repr(node)
    return None


def _array(array: Any, fixed: bool) -> str:
    text = f"{array.dtype}{list(array.shape)}"
    if not fixed and is_stored(array):
        return text
    data = _no_address(repr(array.tolist())).encode() if array.dtype == object else raw(array)
    return f"{text} with digest {_digest(data)}"


def _shortened(text: str) -> str:
    # Long texts stay distinct by their digest.
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 40]}... with digest {_digest(text.encode())}"


def _no_address(text: str) -> str:
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)


def _digest(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()[:12]


def _class(node: Any) -> str:
    cls = type(node)
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}:{cls.__qualname__}"


def _unwrapped(function: Any) -> Any:
    """The function inside `jax.jit`, `jax.custom_jvp` and run-time type checks, which do not change its values."""
    while (inner := getattr(function, "__wrapped__", None)) is not None and not isinstance(function, eqx.Module):
        file = function.__code__.co_filename if isinstance(function, types.FunctionType) else None
        if file is not None and "jaxtyping" not in file and "beartype" not in file:
            break
        function = inner
    return function


def _function_name(function: Any) -> str | None:
    """`module:name`, with `<` in the name of a lambda or local function; None for callables other than functions."""
    if isinstance(function, types.FunctionType):
        # `functools.wraps` copies `__module__` and `__qualname__` of another function.
        return f"{function.__globals__.get('__name__', '')}:{function.__code__.co_qualname}"
    if isinstance(function, types.BuiltinFunctionType | np.ufunc | jnp.ufunc):
        module = getattr(function, "__module__", None) or type(function).__module__
        return f"{module}:{getattr(function, '__name__', type(function).__name__)}"
    return None
