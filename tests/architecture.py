"""The rules of the house, each a pure function from a source tree or some classes to violations."""

import ast
import inspect
import pathlib
import types
from collections.abc import Iterable, Iterator

import equinox as eqx

PACKAGE = "flowrax"

# A module may import only from what stands above it here, and from its own package.
LAYERS = [
    "_base",
    "schedule",
    "prior",
    "interpolant",
    "coupling",
    "times",
    "model",
    "divergence",
    "stepper",
    "dynamics",
    "engine",
    "loss",
    "nn",
    "observation",
    "guidance",
    "inverse",
    "discrete",
    "joint",
    "oracle",
    "verb",
    "train",
    "density",
    "diagnostics",
    "plot",
    "testing",
]

MAX_FILE_LINES = 350
MAX_FUNCTION_LINES = 60

DottedPath = tuple[str, ...]


def python_files(*roots: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for root in roots for path in root.rglob("*.py"))


def imported_names(tree: ast.AST, package: tuple[str, ...]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """The line and dotted path of every import, wherever it stands, relative ones made absolute."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, tuple(alias.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            stem = (*start, *(node.module.split(".") if node.module else ()))
            for alias in node.names:
                yield node.lineno, (*stem, alias.name)


def layer_violations(root: pathlib.Path, layers: list[str] = LAYERS) -> list[str]:
    """Imports that point downwards, or at something that has no layer: the front door, too."""
    rank = {name: position for position, name in enumerate(layers)}
    violations = []
    for path in python_files(root):
        parts = path.relative_to(root).with_suffix("").parts
        if parts == ("__init__",):
            continue
        here = parts[0]
        if here not in rank:
            violations.append(f"{path}: {here} is not in LAYERS")
            continue
        package = (PACKAGE, *parts[:-1])
        for line, target in imported_names(ast.parse(path.read_text()), package):
            if target[0] != PACKAGE:
                continue
            there = target[1] if len(target) > 1 else PACKAGE
            if there not in rank:
                violations.append(f"{path}:{line}: {here} imports {there}, which is not in LAYERS")
            elif there != here and rank[there] >= rank[here]:
                violations.append(f"{path}:{line}: {here} imports {there}, which stands below it")
    # One line may import several names from the same module.
    return list(dict.fromkeys(violations))


def docstring_lines(node: ast.AST) -> int:
    first = node.body[0] if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
        if isinstance(first.value.value, str) and first.end_lineno:
            return first.end_lineno - first.lineno + 1
    return 0


def size_violations(paths: Iterable[pathlib.Path]) -> list[str]:
    """Files and functions that are too long; a function's docstring is not counted."""
    violations = []
    for path in paths:
        text = path.read_text()
        lines = len(text.splitlines())
        if lines > MAX_FILE_LINES:
            violations.append(f"{path}: {lines} lines, at most {MAX_FILE_LINES}")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
                length = node.end_lineno - node.lineno + 1 - docstring_lines(node)
                if length > MAX_FUNCTION_LINES:
                    violations.append(
                        f"{path}:{node.lineno}: {node.name} has {length} lines, at most {MAX_FUNCTION_LINES}"
                    )
    return violations


# What derives or inspects keys draws nothing.
KEY_FUNCTIONS = {"key", "key_data", "key_impl", "wrap_key_data", "split", "fold_in", "PRNGKey"}


def random_violations(root: pathlib.Path, helper: str = "_base/random.py") -> list[str]:
    """Draws by `jax.random` outside of the one module that sees to their precision and their keys."""
    return [
        f"{path}:{node.lineno}: jax.random.{node.attr} is called outside of {helper}"
        for path in python_files(root)
        if path.relative_to(root).as_posix() != helper
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and ast.unparse(node.value) in ("jax.random", "jr")
        and node.attr not in KEY_FUNCTIONS
    ] + [
        f"{path}:{line}: {'.'.join(target)} is imported outside of {helper}"
        for path in python_files(root)
        if path.relative_to(root).as_posix() != helper
        for line, target in imported_names(ast.parse(path.read_text()), (PACKAGE,))
        if target[:2] == ("jax", "random")
    ]


def leftover_violations(paths: Iterable[pathlib.Path]) -> list[str]:
    """Notes to oneself that were left in the source."""
    return [
        f"{path}:{number}: {word}"
        for path in paths
        for number, line in enumerate(path.read_text().splitlines(), 1)
        for word in ("TODO", "FIXME")
        if word in line
    ]


def modules_of(modules: Iterable[types.ModuleType]) -> list[type[eqx.Module]]:
    """The Equinox modules that are defined in some Python modules."""
    return [
        member
        for module in modules
        for member in vars(module).values()
        if isinstance(member, type) and issubclass(member, eqx.Module) and member.__module__ == module.__name__
    ]


def is_named_abstract(cls: type) -> bool:
    return cls.__name__.lstrip("_").startswith("Abstract")


def is_abstract(cls: type) -> bool:
    variables = ("__abstractvars__", "__abstractclassvars__")
    return inspect.isabstract(cls) or any(getattr(cls, name, ()) for name in variables)


def concrete_methods(cls: type) -> set[str]:
    """The methods and properties that a class itself implements, without Python's own dunders."""
    kinds = types.FunctionType | property | classmethod | staticmethod
    return {
        name
        for name, member in vars(cls).items()
        if (isinstance(member, kinds) or isinstance(member, eqx.Module))
        and not getattr(member, "__isabstractmethod__", False)
        and (name == "__call__" or not name.startswith("__"))
    }


def final_violations(classes: Iterable[type]) -> list[str]:
    """Classes that are neither abstract nor final, and concrete methods that are overridden."""
    classes = list(classes)
    violations = []
    for cls in classes:
        if is_named_abstract(cls) and not is_abstract(cls):
            violations.append(f"{cls.__name__} has nothing abstract")
        if not is_named_abstract(cls) and is_abstract(cls):
            violations.append(f"{cls.__name__} is abstract, but its name does not say so")
        own = set(vars(cls)) | set(inspect.get_annotations(cls))
        for base in cls.__mro__[1:]:
            if base not in classes:
                continue
            if not is_named_abstract(base):
                violations.append(f"{cls.__name__} is derived from {base.__name__}, which is final")
            for name in sorted(concrete_methods(base) & own):
                violations.append(f"{cls.__name__}.{name} overrides that of {base.__name__}")
    return violations


def has_docstring(member: object) -> bool:
    documentation = getattr(member, "__doc__", None)
    # Without a docstring, a dataclass gets its signature for one.
    generated = isinstance(member, type) and (documentation or "").startswith(f"{member.__name__}(")
    return bool(documentation) and not generated


def docstring_violations(module: types.ModuleType) -> list[str]:
    """Public classes and functions that do not say what they are, take and return."""
    violations = []
    for name in getattr(module, "__all__", [n for n in vars(module) if not n.startswith("_")]):
        member = getattr(module, name)
        if isinstance(member, types.ModuleType) or not callable(member):
            continue
        if not has_docstring(member):
            violations.append(f"{name} has no docstring")
        elif not isinstance(member, type):
            signature = inspect.signature(member)
            sections = ["**Arguments:**"] if signature.parameters else []
            sections += ["**Returns:**"] if signature.return_annotation is not None else []
            missing = [section for section in sections if section not in (member.__doc__ or "")]
            violations.extend(f"{name} does not state {section}" for section in missing)
    return violations
