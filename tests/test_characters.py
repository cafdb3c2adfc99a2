"""The demo of characters: its n-grams are laws, against sums by hand; its text is split and repeats nothing."""

import collections
import importlib
import itertools
import json
import pathlib
import sys

import numpy as np
import pytest

DEMO = pathlib.Path(__file__).parent.parent / "demo"


@pytest.fixture
def demo(monkeypatch):
    """Imports a module of the demo."""
    monkeypatch.syspath_prepend(str(DEMO))
    return importlib.import_module


def kneser_ney(text, order, num_classes, history, word):
    """By loops over dictionaries, from the definition alone."""
    if order == 0:
        return 1 / num_classes
    raise_by = len(history) + 1 - order
    grams = collections.Counter(tuple(text[i : i + order]) for i in range(len(text) - order + 1))
    if raise_by:
        longer = {tuple(text[i : i + order + 1]) for i in range(len(text) - order)}
        grams = collections.Counter(gram[1:] for gram in longer)
    n = [0, *(max(sum(c == j for c in grams.values()), 1) for j in (1, 2, 3, 4))]
    y = n[1] / (n[1] + 2 * n[2])
    discount = [0] + [min(max(j - (j + 1) * y * n[j + 1] / n[j], 0), j) for j in (1, 2, 3)]
    context = tuple(history[raise_by:])
    follow = {w: grams[(*context, w)] for w in range(num_classes)}
    below = kneser_ney(text, order - 1, num_classes, history, word)
    total = sum(follow.values())
    if total == 0:
        return below
    left = sum(discount[min(c, 3)] for c in follow.values())
    return (follow[word] - discount[min(follow[word], 3)] + left * below) / total


@pytest.mark.parametrize("order", [1, 2, 3])
def test_ngrams_are_kneser_ney_laws(order, demo):
    """Against loops, for contexts seen and not; and they sum to one."""
    ngrams = demo("ngrams")
    rng = np.random.default_rng(0)
    # A sticky chain, so that there are counts of one, two, three and more; the last class is never seen.
    text = np.cumsum(rng.choice([0, 1, 2], 150, p=[0.6, 0.3, 0.1])) % 4
    model = ngrams.train(text, order, 5)
    for history in itertools.product(range(5), repeat=order - 1):
        rows = np.array([[*history, w] for w in range(5)])
        p = [2 ** model.log2_probabilities(row, np.arange(order))[-1] for row in rows]
        assert sum(p) == pytest.approx(1)
        expected = [kneser_ney(text.tolist(), order, 5, list(history), w) for w in range(5)]
        np.testing.assert_allclose(p, expected, rtol=1e-10)


def test_reach_hides_what_stands_before(demo):
    ngrams = demo("ngrams")
    text = np.random.default_rng(1).integers(0, 3, 200)
    model = ngrams.train(text, 3, 3)
    whole = model.log2_probabilities(text[:20], np.arange(20) % 10)
    np.testing.assert_array_equal(whole[10:], model.log2_probabilities(text[10:20], np.arange(10)))


def test_text_is_split_by_position_and_repeats_no_paragraph(demo):
    corpus = demo("corpus")
    topics = {"a": "One  two\n***\n\nthree", "b": "One two\n*****\n\n+---+\n| x |\n+---+\n\nFour “five”"}
    assert corpus.clean(topics) == 'one two *** three one two four "five"'
    assert corpus.clean({"a": topics["a"], "c": topics["a"] + "\n\nsix"}) == "one two *** three six"
    text = corpus.load()
    whole = np.concatenate(text[:3])
    assert len(whole) > 200_000
    assert [round(len(part) / len(whole), 3) for part in text[:3]] == [0.85, 0.05, 0.1]
    assert set(np.unique(whole)) == set(range(len(text.alphabet)))
    assert "the import system" in text.decode(whole)
    rows = corpus.windows(text.validation, corpus.LENGTH)
    np.testing.assert_array_equal(rows.reshape(-1), text.validation[: rows.size])


@pytest.mark.accuracy
def test_the_small_form_runs_and_goes_on_where_it_stopped(demo, tmp_path, monkeypatch, capsys):
    """The second run trains nothing, and says the same."""
    characters = demo("characters")
    monkeypatch.setattr(sys, "argv", ["characters", "--quick", "--no-progress", "--out", str(tmp_path)])
    characters.main()
    first = json.loads((tmp_path / "characters.json").read_text())
    # Twenty steps learn something, n-grams know more: log2 of the alphabet is the start.
    assert first["test"]["alone"][-1][0] < first["test"]["model"][0] < np.log2(len(first["text"]["alphabet"])) - 0.2
    assert (tmp_path / "characters.png").stat().st_size > 10_000
    characters.main()
    second = json.loads((tmp_path / "characters.json").read_text())
    assert {**second, "date": ""} == {**first, "date": ""}
