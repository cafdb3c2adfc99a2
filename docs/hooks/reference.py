"""Generates the reference from the exports of the package, so that it covers every public name."""

import ast
import inspect
import types
from collections.abc import Iterator
from typing import Any

import flowrax

MARKER = "<!-- every public name -->"


def public_modules(package: types.ModuleType = flowrax) -> list[types.ModuleType]:
    """The modules that a package exports by `from . import name`, recursively; Python binds all others itself."""
    tree = ast.parse(inspect.getsource(package))
    fronts = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level and not node.module]
    members = [getattr(package, name) for name in sorted(alias.name for front in fronts for alias in front.names)]
    modules = [member for member in members if isinstance(member, types.ModuleType)]
    return [found for module in modules for found in (module, *public_modules(module))]


def public_names(module: types.ModuleType) -> Iterator[str]:
    """The classes and functions that a module defines and exports."""
    for name, member in vars(module).items():
        home = getattr(member, "__module__", None) or ""
        if not name.startswith("_") and home.startswith(module.__name__) and callable(member):
            yield name


def reference() -> str:
    """One section of directives for the package, then one for the remaining names of each public module."""
    lines, listed = [], set()
    for module in [flowrax, *public_modules()]:
        names = [name for name in public_names(module) if getattr(module, name) not in listed]
        listed.update(getattr(module, name) for name in names)
        if names:
            lines.append(f"## {module.__name__}\n")
        lines.extend(f"::: {module.__name__}.{name}\n" for name in names)
    return "\n".join(lines)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by MkDocs for each page."""
    return markdown.replace(MARKER, reference()) if MARKER in markdown else markdown
