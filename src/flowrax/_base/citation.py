"""Collects the BibTeX references cited in the docstrings of everything that an object consists of.

flowrax's docstrings cite keys of `references.bib`; the docstrings of other libraries contain BibTeX themselves.
"""

import dataclasses
import functools
import importlib.resources
import re
import textwrap
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import equinox as eqx
import jax
import numpy as np

from .version import __version__

_FENCE = re.compile(r"^[ \t]*```bibtex[^\n]*\n(.*?)^[ \t]*```", re.DOTALL | re.MULTILINE)
_ENTRY = re.compile(r"^(@\w+)\s*\{\s*([^,\s]+)\s*,?", re.MULTILINE)
_FIELD = re.compile(r"^\s*\w+\s*=\s*(?=[{\"\w])", re.MULTILINE)
_KEY = re.compile(r"\[@([\w-]+)\]")

# These entries contain versions, which are read at run time.
_SOFTWARE = {
    "flowrax": f"""
@software{{flowrax,
    author = {{{{The flowrax authors}}}},
    title = {{flowrax: stochastic interpolants in {{JAX}}}},
    version = {{{__version__}}},
}}
""",
    "jax": f"""
@software{{jax,
    author = {{James Bradbury and Roy Frostig and Peter Hawkins and Matthew James Johnson and
              Chris Leary and Dougal Maclaurin and George Necula and Adam Paszke and
              Jake Vander{{P}}las and Skye Wanderman-{{M}}ilne and Qiao Zhang}},
    title = {{{{JAX}}: composable transformations of {{P}}ython+{{N}}um{{P}}y programs}},
    url = {{http://github.com/jax-ml/jax}},
    version = {{{jax.__version__}}},
    year = {{2018}},
}}
""",
}
_FOUNDATIONS = {"equinox": "kidger2021equinox", "diffrax": "kidger2021on"}


def citation(*objects: Any) -> str:
    """The BibTeX references of everything that the given objects consist of.

    The references are read from the docstrings of each object's class and its bases, and of all the objects and
    functions that it contains. This covers flowrax's schedules, models and dynamics as well as diffrax's solvers and
    step size controllers. The underlying software (flowrax, JAX, Equinox [@kidger2021equinox],
    Diffrax [@kidger2021on]) is always cited.

    !!! example

        ```python
        import diffrax
        import flowrax as frx

        print(frx.citation(diffrax.Tsit5(), diffrax.PIDController(rtol=1e-5, atol=1e-5)))
        ```

    **Arguments:**

    - `objects`: any number of models, dynamics, solvers, controllers, classes or functions, or
        PyTrees of them.

    **Returns:**

    The text of a `.bib` file, with each entry once, under a comment that names the class or
    function that cites it.
    """
    cited: dict[str, tuple[str, str]] = {}

    def collect(name: str, entries: Iterable[tuple[str, str]]) -> None:
        for key, entry in entries:
            # BibTeX compares keys without regard to case.
            cited.setdefault(key.lower(), (name, entry))

    for name, text in _SOFTWARE.items():
        collect(name, _entries(text))
    for name, key in _FOUNDATIONS.items():
        collect(name, [(key, _references()[key])])
    for source in _sources(objects):
        collect(_public_name(source), _cited_by(source))
    return "\n".join(f"% Cited by {name}:\n{entry}\n" for name, entry in cited.values())


@functools.cache
def _references() -> dict[str, str]:
    """The entries of `references.bib`, by key."""
    return dict(_entries(importlib.resources.files("flowrax").joinpath("_base/references.bib").read_text("utf-8")))


def _cited_by(source: Any) -> Iterator[tuple[str, str]]:
    """The `(key, entry)` pairs cited in the docstring of one class or function."""
    # The `__doc__` of some built-in types is a descriptor instead of text.
    documentation = source.__doc__ if isinstance(source.__doc__, str) else ""
    for block in _FENCE.findall(documentation):
        yield from _entries(textwrap.dedent(block))
    if _library(source) == "flowrax":
        yield from ((key, _references()[key]) for key in _KEY.findall(documentation))


def _entries(text: str) -> Iterator[tuple[str, str]]:
    """Splits BibTeX into `(key, entry)` pairs."""
    matches = list(_ENTRY.finditer(text))
    ends = [match.start() for match in matches[1:]] + [len(text)]
    for match, end in zip(matches, ends, strict=False):
        kind, key = match.groups()
        # The delimiters of an entry are rewritten, so that a malformed entry cannot absorb the next one.
        body = text[match.end() : end].rpartition("}")[0]
        yield key, f"{kind}{{{key},\n{_balanced(body.strip())}\n}}"


def _balanced(body: str) -> str:
    """Closes fields with missing braces, which would invalidate all later entries."""
    starts = [match.start() for match in _FIELD.finditer(body)] + [len(body)]
    fields = []
    for start, end in zip(starts, starts[1:], strict=False):
        field = body[start:end].strip().rstrip(",")
        missing = field.count("{") - field.count("}")
        fields.append("    " + field + "}" * missing + ",")
    return "\n".join(fields)


def _sources(objects: tuple[Any, ...]) -> Iterator[Any]:
    """Every class and function that `objects` consist of, once, in the order in which they are found."""
    pending, visited, yielded = list(reversed(objects)), {}, set()
    while pending:
        item = pending.pop()
        if _is_data(item) or id(item) in visited:
            continue
        # The item is kept alive: a bound method is created on access, and a later object could reuse its id.
        visited[id(item)] = item
        for source in _own_sources(item):
            if source not in yielded:
                yielded.add(source)
                yield source
        pending.extend(reversed(list(_children(item))))


def _is_data(item: Any) -> bool:
    return item is None or isinstance(
        item,
        str | bytes | bool | int | float | complex | np.generic | np.ndarray | jax.Array | types.ModuleType,
    )


def _own_sources(item: Any) -> Iterator[Any]:
    if isinstance(item, types.FunctionType):
        yield item
    elif isinstance(item, Mapping | tuple | list | set | frozenset | functools.partial | types.MethodType):
        return
    else:
        for base in (item if isinstance(item, type) else type(item)).__mro__:
            if base not in (object, eqx.Module):
                yield base


def _children(item: Any) -> Iterator[Any]:
    if isinstance(item, type):
        return
    if isinstance(item, Mapping):
        yield from item.values()
    elif isinstance(item, tuple | list | set | frozenset):
        yield from item
    elif isinstance(item, functools.partial):
        yield from (item.func, *item.args, *item.keywords.values())
    elif isinstance(item, types.MethodType):
        yield from (item.__func__, item.__self__)
    elif dataclasses.is_dataclass(item):
        # A field may be absent, since Equinox allows access to an object that is not yet complete.
        yield from (getattr(item, f.name, None) for f in dataclasses.fields(item))
    # Wrappers such as `equinox.filter_jit` keep the wrapped function, with its docstring, here.
    yield getattr(item, "__wrapped__", None)


def _library(source: Any) -> str:
    return (source.__module__ or "").partition(".")[0]


def _public_name(source: Any) -> str:
    return f"{_library(source)}.{source.__qualname__}"
