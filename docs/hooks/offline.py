"""Copies MathJax to the pages, and fails the build if a page fetches anything from another site."""

import html.parser
import importlib.metadata
import pathlib
import re
import shutil
from typing import Any

MATHJAX = ["es5/tex-svg-full.js", "LICENSE"]
"""The script, which draws glyphs as SVG and needs no font files, and its licence."""

FETCHED = {"data", "href", "poster", "src", "srcset"}
"""The attributes whose address a browser fetches while it loads a page. Links to click are excluded by their tag."""

FOREIGN = re.compile(r"\s*(?:https?:)?//", re.IGNORECASE)
FOREIGN_STYLE = re.compile(r"""(?:url\(\s*["']?|@import\s+["'])(?:https?:)?//[^"')]*""", re.IGNORECASE)


class _Fetches(html.parser.HTMLParser):
    """Collects what a page fetches from other sites."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        clicked = tag in ("a", "area") or (tag == "link" and ("rel", "canonical") in attrs)
        values = [value for name, value in attrs if name in FETCHED and value and FOREIGN.match(value)]
        self.found.extend(f"<{tag}> {value}" for value in values if not clicked)


def fetches(site: pathlib.Path) -> list[str]:
    """Everything that the pages and style sheets of a site fetch from other sites, with the name of the file."""
    found = []
    for path in sorted(site.rglob("*.html")):
        parser = _Fetches()
        parser.feed(path.read_text("utf-8"))
        found.extend(f"{path.relative_to(site)}: {one}" for one in parser.found)
    for path in sorted([*site.rglob("*.html"), *site.rglob("*.css")]):
        found.extend(f"{path.relative_to(site)}: {one}" for one in FOREIGN_STYLE.findall(path.read_text("utf-8")))
    return found


def on_post_build(config: Any) -> None:
    """Called by MkDocs after the site is written."""
    site = pathlib.Path(config["site_dir"])
    folder = site / "assets" / "mathjax"
    folder.mkdir(parents=True, exist_ok=True)
    # The distribution is packaged for Django, but contains only MathJax's own files.
    distribution = importlib.metadata.distribution("django-static-mathjax")
    for name in MATHJAX:
        shutil.copy(str(distribution.locate_file(f"mathjax/static/mathjax/{name}")), folder)
    if found := fetches(site):
        raise SystemExit(
            "The documentation must be readable without a network, but these fetch from another site:\n"
            + "\n".join(found)
        )
