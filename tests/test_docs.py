"""No page of the documentation fetches anything from another site, and every promise has its tests."""

import importlib.util
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent
HOOK = ROOT / "docs" / "hooks" / "offline.py"


@pytest.fixture
def offline():
    spec = importlib.util.spec_from_file_location("offline", HOOK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("index.html", '<script src="https://other.site/a.js"></script>'),
        ("page/index.html", '<script src="//other.site/a.js"></script>'),
        ("index.html", '<link rel="stylesheet" href="http://other.site/a.css">'),
        ("index.html", '<img alt="" src="HTTPS://other.site/a.png"/>'),
        ("index.html", '<p style="background: url(https://other.site/a.png)">'),
        ("assets/a.css", "@font-face {src: url('https://other.site/a.woff')}"),
        ("assets/a.css", '@import "https://other.site/a.css";'),
    ],
)
def test_fetches_from_another_site_are_found(offline, tmp_path, name, text):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    (found,) = offline.fetches(tmp_path)
    assert found.startswith(f"{name}: ")
    assert "//other.site/a" in found


def test_links_and_local_files_are_allowed(offline, tmp_path):
    links = '<a href="https://other.site">x</a><link rel="canonical" href="https://flowrax.site/">'
    local = '<script src="../assets/a.js"></script><img src="data:image/svg+xml,http://www.w3.org/2000/svg">'
    (tmp_path / "index.html").write_text(links + local + "<code>https://other.site/a.js</code>")
    (tmp_path / "a.css").write_text("a {b: url(c.woff); d: url('data:image/svg+xml;,<svg xmlns=\"http://e\">')}")
    assert offline.fetches(tmp_path) == []


def test_every_promise_has_its_tests():
    """Each item of "What flowrax promises" names tests that exist."""
    section = (ROOT / "docs" / "design.md").read_text().split("## What flowrax promises")[1]
    promises = section.split("\n- ")[1:]
    assert len(promises) >= 15
    for promise in promises:
        named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", promise)
        assert named, promise
        for file, test in named:
            assert re.search(rf"^def {test}\(", (ROOT / "tests" / file).read_text(), re.MULTILINE), (file, test)
