"""The demo's units: the Jacobian of its standardisation and its bits per dimension, against closed forms."""

import importlib.util
import pathlib

import numpy as np
import pytest
from scipy import stats

DEMO = pathlib.Path(__file__).parent.parent / "demo"


def load_script(name):
    spec = importlib.util.spec_from_file_location(f"demo_{name}", DEMO / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


data, files = load_script("data"), load_script("files")


@pytest.fixture(scope="module")
def digits():
    return data.load()


def test_split_loses_and_repeats_nothing(digits):
    from sklearn.datasets import load_digits

    parts = [digits.train, digits.validation, digits.test]
    assert [len(part) for part in parts] == [1437, 180, 180]
    together = np.concatenate(parts)
    everything = np.asarray(load_digits(return_X_y=True)[0])
    order = [np.lexsort(rows.T) for rows in (together, everything)]
    np.testing.assert_array_equal(together[order[0]], everything[order[1]])


def test_standardised_training_images_have_unit_moments(digits):
    z = np.concatenate([digits.standardise(data.dequantise(digits.train, seed)) for seed in range(20)])
    # 28,740 draws: the noise alone moves a mean by 0.006 and a standard deviation by less.
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=0.03)
    np.testing.assert_allclose(z.std(axis=0), 1, atol=0.03)


def test_density_of_x_counts_the_jacobian(digits):
    x = data.dequantise(digits.test, seed=0).astype(np.float64)
    of_z = stats.norm.logpdf(digits.standardise(x)).sum(axis=1)
    of_x = stats.norm.logpdf(x, digits.mean, digits.std).sum(axis=1)
    np.testing.assert_allclose(digits.log_density_of_x(of_z), of_x, atol=1e-4)


def test_restore_inverts_standardise(digits):
    x = data.dequantise(digits.test, seed=0)
    np.testing.assert_allclose(digits.restore(digits.standardise(x)), x, atol=1e-6)


def test_bits_of_uniform_grey_levels_are_log2_of_17():
    # The density of uniform levels with uniform noise is one on the unit cube.
    assert data.bits_per_dimension(np.zeros(1)) == pytest.approx(np.log2(17))


def test_bits_of_known_levels_are_their_entropy():
    # Each pixel is 0 with probability 1/4 and 16 with 3/4; x has density 17 P(k) on the cell of k.
    probability = np.array([0.25, 0.75])
    expected = -np.sum(probability * np.log2(probability))
    log_density = 64 * np.sum(probability * np.log(17 * probability))
    assert data.bits_per_dimension(log_density) == pytest.approx(expected)


def test_dequantise_keeps_the_grey_level(digits):
    x = data.dequantise(digits.test, seed=0)
    np.testing.assert_array_equal(np.floor(x * 17), digits.test)
    assert not np.array_equal(x, data.dequantise(digits.test, seed=1))


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "metrics.json"
    files.write_text(path, "old")

    def fail(handle):
        raise OSError("disk full")

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        files.write_text(path, "new")
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.json"]
