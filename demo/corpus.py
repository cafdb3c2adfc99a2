"""The text: the language reference that ships with Python for `help()`, as numbers of characters, split by position."""

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
    """Characters as integers, one after the other."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    alphabet: str
    """Its position is the number of a character; the last one stands for all that are rare."""
    digest: str
    """SHA-256 of the text: other versions of Python have other words."""

    @property
    def before_test(self) -> np.ndarray:
        """All that stands before the held-out text."""
        return np.concatenate([self.train, self.validation])

    def decode(self, numbers: np.ndarray) -> str:
        """The text; what is no character, a mask, is a full block."""
        return "".join(self.alphabet[i] if i < len(self.alphabet) else "█" for i in np.asarray(numbers).tolist())


def clean(topics: dict[str, str]) -> str:
    """Lower case and single spaces; no tables or underlines, and every paragraph once, since the topics repeat some."""
    seen: dict[str, None] = {}
    for topic in topics.values():
        for paragraph in re.split(r"\n\s*\n", topic):
            if "+--" not in paragraph:
                text = re.sub(r"([*=~^#-])\1{3,}", " ", paragraph.translate(PLAIN).lower())
                seen[" ".join(text.split())] = None
    return " ".join(paragraph for paragraph in seen if paragraph)


def load() -> Corpus:
    """85 % to train, then 5 % to watch the training by, and the last 10 % held out."""
    from pydoc_data.topics import topics

    text = clean(topics)
    counts = Counter(text)
    alphabet = "".join(sorted(c for c in counts if counts[c] >= RARE)) + OTHER
    numbers = {character: i for i, character in enumerate(alphabet)}
    coded = np.array([numbers.get(c, len(alphabet) - 1) for c in text], np.int32)
    train, validation, test = np.split(coded, [int(0.85 * len(coded)), int(0.9 * len(coded))])
    return Corpus(train, validation, test, alphabet, hashlib.sha256(text.encode()).hexdigest())


def windows(text: np.ndarray, stride: int, length: int = LENGTH) -> np.ndarray:
    """`(n, length)`: pieces of the text, `stride` apart; the last, incomplete one is left out."""
    return np.lib.stride_tricks.sliding_window_view(text, length)[::stride].copy()
