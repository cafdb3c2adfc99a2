"""The rules of the house hold, and each check is seen to fail where its rule is broken."""

import abc
import importlib
import pathlib
import pkgutil
import subprocess
import sys
import textwrap
import types

import equinox as eqx
import pytest

import architecture
import flowrax as frx

ROOT = pathlib.Path(__file__).parent.parent
SOURCE = ROOT / "src" / "flowrax"
SCRIPTS = [ROOT / name for name in ("tests", "demo", "benchmarks")]


def all_modules():
    names = [info.name for info in pkgutil.walk_packages(frx.__path__, "flowrax.")]
    return [frx, *(importlib.import_module(name) for name in names)]


def modules_beyond_diffrax(statement):
    """The modules that a statement loads in a fresh interpreter after diffrax, without the standard library."""
    report = f"import sys, diffrax; before = set(sys.modules); {statement}; print(*set(sys.modules) - before)"
    command = [sys.executable, "-c", report]
    loaded = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return {name for name in loaded if name.partition(".")[0] not in sys.stdlib_module_names}


def write_tree(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    return root


def test_layers():
    assert architecture.layer_violations(SOURCE) == []


def test_abstract_or_final():
    classes = architecture.modules_of(all_modules())
    assert frx.Linear in classes
    assert architecture.final_violations(classes) == []


def test_sizes():
    assert architecture.size_violations(architecture.python_files(SOURCE, *SCRIPTS)) == []


def test_random_numbers_are_drawn_in_one_module():
    assert architecture.random_violations(SOURCE) == []


def test_nothing_left_over():
    assert architecture.leftover_violations(architecture.python_files(SOURCE)) == []


def test_import_is_light():
    loaded = modules_beyond_diffrax("import flowrax")
    assert {name.partition(".")[0] for name in loaded} == {"flowrax"}
    assert loaded.isdisjoint({"flowrax.diagnostics", "flowrax.nn", "flowrax.oracle"})


@pytest.mark.parametrize("name", ["diagnostics", "nn", "oracle"])
def test_submodule_is_imported_at_its_first_use(name, monkeypatch):
    monkeypatch.delattr(frx, name, raising=False)
    assert name in dir(frx)
    assert getattr(frx, name) is sys.modules[f"flowrax.{name}"]


def test_unknown_names_are_refused():
    with pytest.raises(AttributeError, match="module 'flowrax' has no attribute 'Modle'"):
        _ = frx.Modle


def test_public_names_are_documented():
    assert architecture.docstring_violations(frx) == []


# From here on: each check fails where its rule is broken.


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("from flowrax.b import thing", "b, which stands below"),
        ("import flowrax.b.part", "b, which stands below"),
        ("from flowrax import b", "b, which stands below"),
        ("from . import b", "b, which stands below"),
        ("from .b import thing, another", "b, which stands below"),
        ("def f():\n    from flowrax.b import thing", "b, which stands below"),
        ("if TYPE_CHECKING:\n    from .b.part import thing", "b, which stands below"),
        ("import flowrax", "imports flowrax, which is not in LAYERS"),
        ("from flowrax import thing", "imports thing, which is not in LAYERS"),
    ],
)
def test_layer_check_fails(tmp_path, statement, expected):
    write_tree(tmp_path, {"__init__.py": "from .b import x", "a.py": statement, "b/part.py": ""})
    (violation,) = architecture.layer_violations(tmp_path, ["a", "b"])
    assert expected in violation


def test_layer_check_passes_upwards_and_within(tmp_path):
    within = "from ..a import x\nfrom . import base\nfrom flowrax.b.base import y\nimport numpy.b"
    write_tree(tmp_path, {"a.py": "import jax", "b/part.py": within, "b/base.py": ""})
    assert architecture.layer_violations(tmp_path, ["a", "b"]) == []
    (*_, unknown) = architecture.layer_violations(tmp_path, ["a"])
    assert "b is not in LAYERS" in unknown


class AbstractAnimal(eqx.Module):
    name: eqx.AbstractVar[str]

    @abc.abstractmethod
    def sound(self) -> str:
        """What one hears."""

    @property
    def label(self):
        return self.name


class Dog(AbstractAnimal):
    name: str

    def sound(self) -> str:
        return "woof"


class Puppy(Dog):
    def sound(self) -> str:
        return "yip"


class Relabelled(AbstractAnimal):
    name: str
    label: str  # pyright: ignore[reportIncompatibleMethodOverride]

    def sound(self) -> str:
        return "?"


class Unfinished(AbstractAnimal):
    name: str


class AbstractNothing(eqx.Module):
    name: str


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        ([AbstractAnimal, Dog], []),
        (
            [Dog, Puppy],
            [
                "Puppy is derived from Dog, which is final",
                "Puppy.sound overrides that of Dog",
            ],
        ),
        ([AbstractAnimal, Relabelled], ["Relabelled.label overrides that of AbstractAnimal"]),
        ([Unfinished], ["Unfinished is abstract, but its name does not say so"]),
        ([AbstractNothing], ["AbstractNothing has nothing abstract"]),
    ],
)
def test_final_check_fails(classes, expected):
    assert architecture.final_violations(classes) == expected


def test_modules_are_found():
    found = architecture.modules_of([sys.modules[__name__]])
    assert found == [AbstractAnimal, Dog, Puppy, Relabelled, Unfinished, AbstractNothing]


def test_size_check_fails(tmp_path):
    body = "    x = 0\n" * 59
    docstring = '    """' + "words\n" * 100 + '    """\n'
    (tmp_path / "file.py").write_text("\n" * 351)
    (tmp_path / "good.py").write_text(f"def short():\n{docstring}{body}")
    (tmp_path / "function.py").write_text(f"def long():\n{body}    return x\n")
    violations = architecture.size_violations(architecture.python_files(tmp_path))
    assert [violation.partition(": ")[2] for violation in violations] == [
        "351 lines, at most 350",
        "long has 61 lines, at most 60",
    ]


def test_random_check_fails(tmp_path):
    text = "import jax\njax.random.split(k)\njax.random.normal(k)\n"
    write_tree(tmp_path, {"a.py": text, "b.py": "from jax.random import uniform", "_base/random.py": text})
    violations = architecture.random_violations(tmp_path)
    assert [violation.partition(": ")[2] for violation in violations] == [
        "jax.random.normal is called outside of _base/random.py",
        "jax.random.uniform is imported outside of _base/random.py",
    ]


def test_leftover_check_fails(tmp_path):
    write_tree(tmp_path, {"a.py": "x = 1\n# " + "TO" + "DO later\n", "b.py": "y = 2\n"})
    (violation,) = architecture.leftover_violations(architecture.python_files(tmp_path))
    assert violation.endswith("a.py:2: " + "TO" + "DO")


def test_import_check_fails():
    loaded = modules_beyond_diffrax("import tqdm, flowrax.nn")
    assert {"tqdm", "flowrax.nn"} <= loaded


def test_docstring_check_fails():
    def documented(x):
        """Does.

        **Arguments:**

        - `x`: a number.

        **Returns:**

        Another.
        """

    def half(x):
        """Does."""

    def nothing() -> None:
        """Does, and has nothing to take or give."""

    module = types.ModuleType("module")
    vars(module).update(Dog=Dog, documented=documented, half=half, nothing=nothing, bare=lambda: 0, version="1")
    assert architecture.docstring_violations(module) == [
        "Dog has no docstring",
        "half does not state **Arguments:**",
        "half does not state **Returns:**",
        "bare has no docstring",
    ]
