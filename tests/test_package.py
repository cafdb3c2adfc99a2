"""What the package says of itself agrees: version, Python, dependencies, run-time checks."""

import pathlib
import re
import tomllib

import jaxtyping
import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import flowrax as frx
from flowrax import _base

ROOT = pathlib.Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def pythons_named(text):
    """The versions in phrases such as "Python 3.11", "Python >= 3.11" and "Python 3.11+"."""
    return set(re.findall(r"\bPython\s*(?:>=|≥)?\s*(3\.\d+)", text))


def test_version():
    assert frx.__version__ == PROJECT["version"]


def test_pages_name_the_python_that_is_required():
    (required,) = SpecifierSet(PROJECT["requires-python"])
    assert required.operator == ">="
    named = {page.name: pythons_named(page.read_text()) for page in PAGES if page.exists()}
    assert named["CONTRIBUTING.md"] == {required.version}
    assert all(versions <= {required.version} for versions in named.values()), named


def test_pythons_named():
    text = "Python 3.10+, Python >= 3.11, Python ≥3.12, python3, Python"
    assert pythons_named(text) == {"3.10", "3.11", "3.12"}


def test_constraints_pin_every_dependency():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    pinned = {name.lower().replace("_", "-"): version for name, version in pinned.items()}
    extras = PROJECT["optional-dependencies"].values()
    for line in [*PROJECT["dependencies"], *(line for extra in extras for line in extra)]:
        requirement = Requirement(line)
        assert pinned[requirement.name] in requirement.specifier, line


def test_arguments_are_checked_at_run_time():
    with pytest.raises(jaxtyping.TypeCheckError):
        _base.citation._balanced(3)
