"""The benchmark harness: its order, its ratios, its files and its page, on jobs whose answers are known."""

import importlib
import json
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
harness, page, pieces = (importlib.import_module(f"benchmarks.{name}") for name in ("harness", "page", "pieces"))


def test_variants_alternate_and_every_other_round_runs_backwards():
    calls = []
    variants = {name: lambda name=name: calls.append(name) for name in "abc"}
    times = harness.alternate(variants, rounds=2, at_least=0.0)
    # Each is first run twice, to compile and to be counted.
    assert "".join(calls) == "aabbcc" + "abc" + "cba"
    assert all(len(timing.wall) == len(timing.cpu) == 2 for timing in times.values())


def test_ratio_is_taken_within_a_round():
    # The second round found a machine ten times slower; the ratio of medians would be 2.5.
    times = {"a": harness.Timing([2.0, 30.0, 4.0], [1.0] * 3), "b": harness.Timing([1.0, 10.0, 1.0], [4.0] * 3)}
    assert harness.ratio(times, "a", "b") == harness.Ratio(3.0, 2.0, 4.0)
    assert harness.ratio(times, "a", "b", "cpu").median == 0.25


def test_errors_of_the_worst_and_the_median_sample():
    found = harness.errors([[0.0, 0.0], [3.0, 4.0], [1.0, 1.0]], [[0.0, 0.0]] * 3)
    assert found["worst"] == pytest.approx(12.5**0.5)
    assert found["median"] == pytest.approx(1.0)
    assert found["rms"] == pytest.approx((13.5 / 3) ** 0.5)


def trivial(folder):
    report = harness.Report("adaptive", "A job", False, folder, MACHINE)
    report.setting(samples=3)
    report.bar("fast enough", harness.Ratio(1.05, 1.0, 1.2), also=harness.Ratio(1.1, 1.1, 1.1), at_most=1.1)
    report.bar("good enough", 3.0, at_least=10)
    with report.optional("a peer"):
        pieces.peer("a_library_that_is_not_there")
    return report


MACHINE = {
    "date": "2026-11-24T00:00:00+00:00",
    "commit": "abc",
    "device": "cpu: cpu",
    "processor": "P",
    "cores": 2,
    "load": 0.1,
    "python": "3.11",
    "settings": {},
    "versions": {"jax": "1"},
}


def test_a_killed_job_leaves_what_it_had(tmp_path):
    report = trivial(tmp_path)
    content = json.loads((tmp_path / "adaptive.json").read_text())
    assert [bar["met"] for bar in content["bars"]] == [True, False]
    assert not content["finished"]
    assert content["skipped"] == [line for line in content["skipped"] if "a_library_that_is_not_there" in line] != []
    report.finish(1.0)
    assert json.loads((tmp_path / "adaptive.json").read_text())["finished"]
    assert [path.name for path in tmp_path.iterdir()] == ["adaptive.json"]


def test_a_write_that_fails_keeps_the_old_file(tmp_path):
    path = tmp_path / "result.json"
    harness.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        harness.write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}


def test_page_is_made_of_the_results(tmp_path):
    trivial(tmp_path).finish(1.0)
    results = page.load(tmp_path)
    template = "".join(f"<!-- {name} -->\nold\n<!-- /{name} -->\n" for name in ("summary", "adaptive", "sde"))
    text = page.fill(template, results, {"good enough": "The peer was slow."})
    assert "old" not in text
    assert "1 of 2 bars are met. 1 part was skipped." in text
    assert "| fast enough | ≤ 1.1 | 1.05 (1 to 1.2) | wall | 1.1 | met |" in text
    assert "| good enough | ≥ 10 | 3 |  |  | **missed** |" in text
    assert "Missed: good enough. The peer was slow." in text
    assert "Missed, for reasons not yet measured: good enough." in page.fill(template, results, {})
    assert text.endswith("<!-- sde -->\n\nNot measured yet.\n\n<!-- /sde -->\n")
    assert page.fill(text, results, {"good enough": "The peer was slow."}) == text


def test_pages_marks_are_all_there():
    template = page.PAGE.read_text()
    for name in (*page.ORDER, "machine", "summary"):
        assert template.count(f"<!-- {name} -->") == template.count(f"<!-- /{name} -->") == 1


def test_a_missing_piece_is_named():
    with pytest.raises(harness.Missing, match="this flowrax has no nothing.like.it"):
        pieces.piece("nothing.like.it")
    assert pieces.piece("nothing.like.it", "nn.MLP") is not None
