"""The text: the language reference that Python's `help()` shows, encoded by character and split by position."""

import hashlib
import re
from collections import Counter
from typing import NamedTuple

import numpy as np

LENGTH = 128
OTHER = "¤"
PLAIN = str.maketrans("“”‘’–—…", "\"\"''--.")
RARE = 100


class Corpus(NamedTuple):
    """The text as integers, one for each character."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    alphabet: str
    """A character's index in this string is its number; the last character replaces all rare ones."""
    digest: str
    """SHA-256 of the text, which differs between versions of Python."""

    @property
    def before_test(self) -> np.ndarray:
        """The text before the held-out part."""
        return np.concatenate([self.train, self.validation])

    def decode(self, numbers: np.ndarray) -> str:
        """The text, with masks shown as full blocks."""
        return "".join(self.alphabet[i] if i < len(self.alphabet) else "█" for i in np.asarray(numbers).tolist())


def clean(topics: dict[str, str]) -> str:
    """The text in lower case with single spaces, without tables, underlines and repeated paragraphs."""
    paragraphs: dict[str, None] = {}
    for topic in topics.values():
        for paragraph in re.split(r"\n\s*\n", topic):
            if "+--" not in paragraph:
                text = re.sub(r"([*=~^#-])\1{3,}", " ", paragraph.translate(PLAIN).lower())
                paragraphs[" ".join(text.split())] = None
    return " ".join(paragraph for paragraph in paragraphs if paragraph)


def load() -> Corpus:
    """The first 85 % of the text for training, the next 5 % for validation and the last 10 % for testing."""
    from pydoc_data.topics import topics

    text = clean(topics)
    counts = Counter(text)
    alphabet = "".join(sorted(c for c in counts if counts[c] >= RARE)) + OTHER
    numbers = {character: i for i, character in enumerate(alphabet)}
    coded = np.array([numbers.get(c, len(alphabet) - 1) for c in text], np.int32)
    train, validation, test = np.split(coded, [int(0.85 * len(coded)), int(0.9 * len(coded))])
    return Corpus(train, validation, test, alphabet, hashlib.sha256(text.encode()).hexdigest())


def windows(text: np.ndarray, stride: int, length: int = LENGTH) -> np.ndarray:
    """Windows of the text at distances of `stride`, `(n, length)`; an incomplete last window is left out."""
    return np.lib.stride_tricks.sliding_window_view(text, length)[::stride].copy()
