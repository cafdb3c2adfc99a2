"""The check that no page of the documentation fetches anything from another site."""

import importlib.util
import pathlib

import pytest

HOOK = pathlib.Path(__file__).parent.parent / "docs" / "hooks" / "offline.py"


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
