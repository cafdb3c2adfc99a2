r"""Classifier two-sample tests: a classifier that tells two samples apart better than by chance proves them different.

The accuracy of [`c2st`][] is that of held-out rows [@lopezpaz2017revisiting], with the settings of the benchmark of
simulation-based inference [@lueckmann2021benchmarking]. The local test trains a classifier on pairs of events and
observations, and looks at its probabilities at one observation, $t = \mathbb{E}_q (d(x, y) - 1/2)^2$
[@linhart2023lc2st]. scikit-learn is imported when a test is called.
"""

import importlib.util
from typing import Any

import equinox as eqx
import numpy as np
from scipy import stats

from .._base.arguments import checked
from .._base.checks import check_count, check_finite, check_methods
from .._base.typing import BatchLike, Integer, KeyLike
from .runs import host, host_generator, read_runs

Classifier = Any
"""A scikit-learn classifier, with the methods `fit`, `predict` and `predict_proba`."""


class ClassifierTest(eqx.Module):
    """The result of `c2st`.

    **Attributes:**

    - `value`: the accuracy on held-out rows: 0.5 if the classifier cannot tell the samples apart, 1 if it always can.
    - `error`: its standard error, from the folds.
    - `p_value`: the probability of this accuracy or a higher one by chance, by the normal approximation.
    - `by_fold`: the accuracy of each fold.
    """

    value: float
    error: float
    p_value: float
    by_fold: np.ndarray

    def __repr__(self) -> str:
        return f"ClassifierTest(accuracy {self.value:.3f} +- {self.error:.2g}, p = {self.p_value:.2g})"


class LocalClassifierTest(eqx.Module):
    """The result of `l_c2st`.

    **Attributes:**

    - `statistic`: the mean squared deviation of the classifier's probability from 1/2 at the observation.
    - `null`: the statistics of classifiers trained after random swaps of truths and draws.
    - `p_value`: the fraction of all these statistics, its own included, that are at least as large.
    - `num_failed`: the number of simulations that have no usable draw and are left out.
    """

    statistic: float
    null: np.ndarray
    p_value: float
    num_failed: int

    def __repr__(self) -> str:
        return (
            f"LocalClassifierTest(statistic {self.statistic:.3g}, by chance {self.null.mean():.3g} on average, "
            f"p = {self.p_value:.2g})"
        )


@checked
def c2st(
    x: BatchLike,
    reference: BatchLike,
    *,
    num_folds: Integer = 5,
    classifier: Classifier = None,
    key: KeyLike | None = None,
) -> ClassifierTest:
    """The accuracy of a classifier that tells two samples apart, by cross-validation.

    **Reference:** [@lopezpaz2017revisiting], with the settings of [@lueckmann2021benchmarking].

    **Arguments:**

    - `x`: `(n, *event)`.
    - `reference`: `(n, *event)`; the coordinates of both are scaled by its mean and standard deviation.
    - `num_folds`: the number of folds. Default: 5.
    - `classifier`: a scikit-learn classifier, which is copied. Default: a perceptron with two hidden layers of ten
        units for each coordinate, which takes some seconds for thousands of rows.
    - `key`: of the folds and of the classifier. Default: `jax.random.key(0)`.

    **Returns:** [`ClassifierTest`][].

    **Raises:** `ValueError` for samples of different shapes, NaN, or fewer rows than folds; `ImportError` without
        scikit-learn.
    """
    x, reference = host("x", x), host("reference", reference)
    if x.shape != reference.shape or x.ndim < 1:
        raise ValueError(
            f"x and reference have shapes {x.shape} and {reference.shape}; c2st needs as many rows of each."
        )
    num_folds = check_count("num_folds", num_folds, 2)
    if len(x) < 2 * num_folds:
        raise ValueError(f"x has {len(x)} rows, too few for {num_folds} folds; at least {2 * num_folds} are needed.")
    check_finite("x", x)
    check_finite("reference", reference)
    x, reference = x.reshape(len(x), -1), reference.reshape(len(x), -1)
    rows = _standardised(np.concatenate([reference, x]), reference)
    labels = np.repeat([0, 1], len(x))
    rng = host_generator(key)
    fresh = _factory(classifier, x.shape[1], rng)
    # Each fold holds as many rows of both samples, up to one.
    fold = np.concatenate([rng.permutation(len(x)) % num_folds for _ in range(2)])
    accuracy = np.empty(num_folds)
    for index in range(num_folds):
        fitted = fresh().fit(rows[fold != index], labels[fold != index])
        accuracy[index] = np.mean(fitted.predict(rows[fold == index]) == labels[fold == index])
    value = float(np.mean(accuracy))
    p_value = float(stats.norm.sf((value - 0.5) * np.sqrt(4 * len(rows))))
    return ClassifierTest(value, float(np.std(accuracy, ddof=1) / np.sqrt(num_folds)), p_value, accuracy)


@checked
def l_c2st(
    truths: BatchLike,
    draws: BatchLike,
    observations: BatchLike,
    *,
    observation: BatchLike,
    observed_draws: BatchLike,
    log_weights: BatchLike | None = None,
    num_permutations: Integer = 100,
    classifier: Classifier = None,
    key: KeyLike | None = None,
) -> LocalClassifierTest:
    """Whether the posterior of one observation differs from the truth, by a classifier of pairs.

    The null distribution comes from classifiers trained after swapping truth and draw in random simulations, which a
    correct posterior makes exchangeable. Training takes `num_permutations + 1` fits.

    **Reference:** [@linhart2023lc2st].

    **Arguments:**

    - `truths`, `draws`, `log_weights`: as in [`simulation_based_calibration`][]; one draw of each simulation is used.
    - `observations`: `(s, *observation)`, the data of each simulation.
    - `observation`: the data at which the posterior is tested.
    - `observed_draws`: `(m, *event)`, draws from the posterior given `observation`.
    - `num_permutations`: the number of swaps; the smallest p-value is `1 / (num_permutations + 1)`. Default: 100.
    - `classifier`: a scikit-learn classifier, which is copied. Default: a perceptron with two hidden layers of ten
        units for each number of a pair.
    - `key`: of the swaps and of the classifier. Default: `jax.random.key(0)`.

    **Returns:** [`LocalClassifierTest`][].

    **Raises:** `ValueError` for shapes that do not fit, or values that are not finite; `ImportError` without
        scikit-learn.
    """
    num_permutations, rng = check_count("num_permutations", num_permutations), host_generator(key)
    runs = read_runs("l_c2st", truths, draws, log_weights)
    data, at = host("observations", observations), host("observation", observation)
    events = host("observed_draws", observed_draws)
    if len(data) != runs.kept.size or data.shape[1:] != at.shape:
        raise ValueError(
            f"observations has shape {data.shape} but {(runs.kept.size, *at.shape)} is expected, one like observation, "
            "for each truth."
        )
    if events.shape[1:] != runs.event or not len(events):
        raise ValueError(
            f"observed_draws has shape {events.shape} but (m, *event) with event {runs.event} is expected."
        )
    for name, values in (("observations", data), ("observation", at), ("observed_draws", events)):
        check_finite(name, values)
    data = data.reshape(len(data), -1)[runs.kept]
    # One draw of each simulation, in proportion to the weights.
    picked = np.sum(np.cumsum(runs.weights, axis=1) < rng.uniform(size=(len(runs.truths), 1)), axis=1)
    drawn = runs.draws[np.arange(len(picked)), np.minimum(picked, runs.weights.shape[1] - 1)]
    pairs = [np.concatenate([part, data], axis=1) for part in (runs.truths, drawn)]
    tested = np.concatenate([events.reshape(len(events), -1), np.tile(at.reshape(1, -1), (len(events), 1))], axis=1)
    together = np.concatenate(pairs)
    tested, pairs = _standardised(tested, together), [_standardised(part, together) for part in pairs]
    fresh, labels = _factory(classifier, tested.shape[1], rng), np.repeat([0, 1], len(data))

    def statistic(swap: np.ndarray) -> float:
        first, second = np.where(swap, pairs[1], pairs[0]), np.where(swap, pairs[0], pairs[1])
        fitted = fresh().fit(np.concatenate([first, second]), labels)
        return float(np.mean((fitted.predict_proba(tested)[:, 1] - 0.5) ** 2))

    value = statistic(np.zeros((len(data), 1), bool))
    null = np.array([statistic(rng.uniform(size=(len(data), 1)) < 0.5) for _ in range(num_permutations)])
    return LocalClassifierTest(
        value, null, float((1 + np.sum(null >= value)) / (1 + num_permutations)), runs.num_failed
    )


def _standardised(rows: np.ndarray, reference: np.ndarray) -> np.ndarray:
    std = np.std(reference, axis=0)
    return (rows - np.mean(reference, axis=0)) / np.where(std > 0, std, 1.0)


def _factory(classifier: Classifier, dimension: int, rng: np.random.Generator) -> Any:
    """A function that makes an unfitted copy of the classifier, each with a seed of its own."""
    if importlib.util.find_spec("sklearn") is None:
        raise ImportError(
            "classifier tests need scikit-learn; install it, for example by pip install flowrax[diagnostics]."
        )
    from sklearn.base import clone
    from sklearn.neural_network import MLPClassifier

    if classifier is None:
        width = 10 * dimension
        classifier = MLPClassifier(hidden_layer_sizes=(width, width), max_iter=10_000)
    check_methods("classifier", classifier, ("fit", "predict", "predict_proba"))

    def fresh() -> Any:
        copy: Any = clone(classifier)
        if "random_state" in copy.get_params():
            copy.set_params(random_state=int(rng.integers(2**31)))
        return copy

    return fresh
