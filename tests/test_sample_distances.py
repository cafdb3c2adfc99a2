"""Distances between samples against closed forms, and classifier tests against the accuracy of the best classifier."""

import importlib.util

import numpy as np
import pytest
from scipy import stats

from flowrax import diagnostics as dg

DISTANCES = {"sliced": dg.sliced_wasserstein, "energy": dg.energy_distance, "mmd": lambda *a, **k: dg.mmd(*a, **k)}


def normal(seed, size, mean=0.0, std=1.0):
    return mean + std * np.random.default_rng(seed).normal(size=size)


def absolute(mean, std):
    """The mean absolute value of a normal number."""
    return mean * (2 * stats.norm.cdf(mean / std) - 1) + 2 * std * stats.norm.pdf(mean / std)


def test_shifted_gaussians():
    """W1 is the shift, the energy distance follows from mean absolute differences, the MMD from Gaussian integrals."""
    x, y = normal(0, (3000, 1), 1.0), normal(1, (2000, 1))
    exact = {
        dg.sliced_wasserstein: 1.0,
        dg.energy_distance: 2 * absolute(1.0, np.sqrt(2)) - 2 * absolute(0.0, np.sqrt(2)),
    }
    for distance, value in exact.items():
        found = distance(x, y)
        assert abs(found.value - value) < 4 * found.error and found.floor < 0.05 * value
    found = dg.mmd(x, y, bandwidth=1.5)
    scale = np.sqrt(1.5**2 / (1.5**2 + 2))
    assert abs(found.value - 2 * scale * (1 - np.exp(-0.5 / (1.5**2 + 2)))) < 4 * found.error


def test_the_error_of_a_shift_is_that_of_a_difference_of_means():
    errors = [dg.sliced_wasserstein(normal(s, (400, 1), 9.0), normal(s + 50, (200, 1))).error for s in range(30)]
    # A jackknife of ten blocks has nine degrees of freedom.
    assert abs(np.mean(np.square(errors)) / (1 / 400 + 1 / 200) - 1) < 4 * np.sqrt(2 / 9 / 30)


@pytest.mark.accuracy
def test_the_floor_is_the_distance_of_equal_distributions():
    for distance in DISTANCES.values():
        records = [distance(normal(s, (300, 2)), normal(s + 100, (150, 2))) for s in range(20)]
        square = np.mean([record.value**2 for record in records])
        # Squares of degenerate statistics vary by about twice their mean.
        assert abs(np.mean([record.floor**2 for record in records]) / square - 1) < 4 * 2 / np.sqrt(20)
        assert np.mean([record.floor for record in records]) == pytest.approx(np.sqrt(square), rel=0.5)


def test_slices_of_a_shift():
    """In the plane the mean of |shift . direction| is 2 / pi; of order 2 its root mean square is 1 / sqrt(2)."""
    x = normal(2, (500, 2))
    shifted = x + [3.0, 0.0]
    # 300 directions: standard errors 0.31 / 17.3 and about as much, relative to the shift.
    assert abs(dg.sliced_wasserstein(shifted, x, num_projections=300).value / 3 - 2 / np.pi) < 0.07
    assert abs(dg.sliced_wasserstein(shifted, x, p=2.0, num_projections=300).value / 3 - np.sqrt(0.5)) < 0.07


def test_integer_weights_are_repeated_rows():
    rng = np.random.default_rng(3)
    x, y, counts = rng.normal(size=(40, 1)), rng.normal(size=(70, 1)), rng.integers(1, 5, size=40)
    repeated = dg.sliced_wasserstein(np.repeat(x, counts, axis=0), y).value
    weighted = dg.sliced_wasserstein(x, y, log_weights=np.log(counts) + 3.0).value
    assert weighted == pytest.approx(repeated, rel=1e-9)
    # scipy computes the same distance.
    assert weighted == pytest.approx(stats.wasserstein_distance(x[:, 0], y[:, 0], counts), rel=1e-9)


@pytest.mark.accuracy
def test_importance_weights_give_the_other_distribution():
    x, y = normal(4, (1000, 2), std=1.3), normal(5, (1000, 2))
    log_weights = np.sum(stats.norm.logpdf(x) - stats.norm.logpdf(x, scale=1.3), axis=1)
    for distance in DISTANCES.values():
        plain, weighted = distance(x, y), distance(x, y, log_weights=log_weights)
        assert abs(weighted.value) < 3 * weighted.floor < plain.value


def test_c2st_reaches_the_accuracy_of_the_best_classifier():
    """Phi(shift / 2) for normal distributions of unit width."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    x, y = normal(6, (2000, 3)) + [2.0, 0.0, 0.0], normal(7, (2000, 3))
    found = dg.c2st(x, y, classifier=linear_model.LogisticRegression())
    best = stats.norm.cdf(1.0)
    assert abs(found.value - best) < 4 * np.sqrt(best * (1 - best) / 4000) and found.p_value < 1e-100
    assert abs(found.error / np.sqrt(best * (1 - best) / 4000) - 1) < 1.0
    same = dg.c2st(normal(8, (2000, 3)), y, classifier=linear_model.LogisticRegression())
    assert abs(same.value - 0.5) < 4 * 0.5 / np.sqrt(4000)


@pytest.mark.accuracy
def test_the_perceptron_of_c2st_tells_disjoint_samples_apart():
    pytest.importorskip("sklearn")
    y = normal(9, (60, 2))
    assert dg.c2st(normal(10, (60, 2), 8.0), y, num_folds=2).value == 1.0
    same = dg.c2st(normal(11, (60, 2)), y, num_folds=2)
    assert abs(same.value - 0.5) < 4 * 0.5 / np.sqrt(120)


@pytest.mark.accuracy
def test_local_c2st_finds_where_a_posterior_is_wrong():
    """A posterior whose bias is proportional to the data, and which is right at 0, by features of the exact test."""
    pytest.importorskip("sklearn")
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures

    rng = np.random.default_rng(12)
    truths = rng.normal(size=(800, 1))
    data = truths + rng.normal(size=(800, 1))

    def posterior(y):
        return 0.75 * y + np.sqrt(0.5) * rng.normal(size=y.shape)

    draws, classifier = posterior(data)[:, None], make_pipeline(PolynomialFeatures(2), LogisticRegression())
    tests = [
        dg.l_c2st(
            *(truths, draws, data),
            observation=np.array([at]),
            observed_draws=posterior(np.full((300, 1), at)),
            num_permutations=19,
            classifier=classifier,
        )
        for at in (0.0, 2.0)
    ]
    assert tests[0].p_value > 0.05 and tests[1].p_value == 1 / 20


def test_without_scikit_learn_the_error_says_what_to_install(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "sklearn" else find(name, *a))
    with pytest.raises(ImportError, match=r"need scikit-learn; install it, for example by pip install flowrax\[diag"):
        dg.c2st(normal(0, (20, 1)), normal(1, (20, 1)))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: dg.energy_distance(x, x[:, :1]), "the rows of x have 2 numbers but those of reference 1"),
        (lambda x: dg.energy_distance(x, np.full((30, 2), np.nan)), "reference holds 60 NaN or infinite values"),
        (lambda x: dg.mmd(x[:5], x), r"x has shape \(5, 2\) but at least 20 rows are needed"),
        (lambda x: dg.mmd(x, x, bandwidth=-1.0), "bandwidth must be positive; got -1"),
        (lambda x: dg.mmd(x, np.zeros((30, 2))), "their median distance is 0; pass bandwidth="),
        (lambda x: dg.sliced_wasserstein(x, x, p=0.5), "p must be at least 1; got 0.5"),
        (lambda x: dg.sliced_wasserstein(x, x, log_weights=np.zeros(3)), "log-weights of x must be 30 numbers"),
        (lambda x: dg.c2st(x, x[:20]), "c2st needs as many rows of each"),
        (lambda x: dg.c2st(x, x, classifier=3), "classifier must be an object with the methods fit, predict"),
    ],
)
def test_wrong_samples_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call(normal(13, (30, 2)))
