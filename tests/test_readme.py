"""Every Python block of the README and the docs runs as it stands."""

import pathlib
import re
import textwrap
from typing import NamedTuple

import pytest

ROOT = pathlib.Path(__file__).parent.parent
FENCE = re.compile(r"^([ \t]*)```python([^\n]*)\n(.*?)^\1```[ \t]*$", re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    name: str
    code: str
    line: int


def blocks(path, root=ROOT):
    """The ```` ```python ```` blocks of a Markdown file, without those marked `no-run`."""
    text = path.read_text()
    found = []
    for match in FENCE.finditer(text):
        if "no-run" not in match.group(2).split():
            line = text.count("\n", 0, match.start()) + 1
            name = f"{path.relative_to(root)}:{line}"
            found.append(Block(name, textwrap.dedent(match.group(3)), line))
    return found


DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCKS = [block for path in DOCUMENTS if path.exists() for block in blocks(path)]


# What ott-jax imports.
@pytest.mark.accuracy
@pytest.mark.filterwarnings("ignore:JAXopt is no longer maintained")
@pytest.mark.parametrize("block", [pytest.param(block, id=block.name) for block in BLOCKS])
def test_block_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Blank lines first, so that a traceback names the line of the document.
    code = compile("\n" * block.line + block.code, block.name, "exec")
    exec(code, {"__name__": "__main__"})


def test_readme_has_an_example():
    assert any(block.name.startswith("README.md") for block in BLOCKS)


def test_extraction(tmp_path):
    document = tmp_path / "page.md"
    document.write_text(
        "# Title\n"
        "```python\na = 1\n\nb = 2\n```\n"
        "```python no-run\nraise SystemExit\n```\n"
        "```bash\nls\n```\n"
        "!!! example\n\n    ```python\n    if True:\n        c = 3\n    ```\n"
    )
    found = blocks(document, tmp_path)
    assert [block.name for block in found] == ["page.md:2", "page.md:15"]
    assert [block.code for block in found] == ["a = 1\n\nb = 2\n", "if True:\n    c = 3\n"]
