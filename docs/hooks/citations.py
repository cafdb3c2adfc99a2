"""Links every `[@key]` on a page to its entry on the page of references, which is generated from `references.bib`."""

import posixpath
import re
import unicodedata
from collections.abc import Iterator
from typing import Any

from flowrax._base import citation

PAGE = "references.md"
MARKER = "<!-- every reference -->"
COMBINING = {"'": "\u0301", "`": "\u0300", '"': "\u0308", "^": "\u0302", "~": "\u0303", "c": "\u0327"}


def plain(text: str) -> str:
    r"""The text of a BibTeX field in Unicode: no braces, `{\"o}` as ö, `--` as a dash."""
    text = re.sub(
        r"\\(?:(['`\"^~])\{?(\w)\}?|(c)\{(\w)\})",
        lambda m: unicodedata.normalize("NFC", (m[2] or m[4]) + COMBINING[m[1] or m[3]]),
        text,
    )
    return re.sub(r"\s+", " ", re.sub(r"[{}]", "", text)).replace("--", "–")


def fields(entry: str) -> dict[str, str]:
    """The fields of an entry, each on lines of its own."""
    found = re.findall(r"^    (\w+)=\{(.*?)\},\n(?=    \w|\})", entry, re.DOTALL | re.MULTILINE)
    return {name: plain(text) for name, text in found}


def families(entry: dict[str, str]) -> list[str]:
    """The family names of the authors, with "others" last if some are left out."""
    return [author.partition(",")[0] for author in entry["author"].split(" and ")]


def label(entry: dict[str, str]) -> str:
    """The citation of an entry in running text, such as "Ho et al. (2020)"."""
    names = families(entry)
    who = f"{names[0]} et al." if len(names) > 2 or names[-1] == "others" else " and ".join(names)
    return f"{who} ({entry['year']})"


def item(key: str, entry: dict[str, str]) -> str:
    """An entry in the list of references."""
    *others, last = (" ".join(reversed(name.split(", ", 1))) for name in entry["author"].split(" and "))
    who = ", ".join(others) + (" et al." if last == "others" else f" and {last}") if others else last
    where = next(entry[name] for name in ("journal", "booktitle", "school", "publisher") if name in entry)
    where += f" {entry['volume']}" if "volume" in entry else ""
    where += f", {entry['pages']}" if "pages" in entry else ""
    return f'- <span id="{key}"></span>{who} ({entry["year"]}). *{entry["title"]}.* {where}.'


def references() -> Iterator[tuple[str, dict[str, str]]]:
    """The key and the fields of every entry."""
    for key, text in citation._references().items():
        yield key, fields(text)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by MkDocs for each page."""
    if MARKER not in markdown:
        return markdown
    entries = sorted(references(), key=lambda pair: (families(pair[1])[0].casefold(), pair[1]["year"]))
    return markdown.replace(MARKER, "\n".join(item(key, entry) for key, entry in entries))


def on_page_content(html: str, page: Any, files: Any, **_: Any) -> str:
    """Called by MkDocs for each page after the docstrings are inserted; raises `KeyError` for an unknown key."""
    labels = {key: label(entry) for key, entry in references()}
    here = page.url if page.url.endswith("/") else posixpath.dirname(page.url)
    address = posixpath.relpath(files.get_file_from_path(PAGE).url, here or ".") + "/"

    def link(found: re.Match[str]) -> str:
        key = found["key"]
        return f'<a href="{address}#{key}">{labels[key]}</a>' if key else found[0]

    # Docstrings in listings of the source stay as they are.
    return re.sub(r'<span class="sd">.*?</span>|\[@(?P<key>[\w-]+)\]', link, html)
