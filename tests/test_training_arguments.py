"""Arguments of training, losses, categorical parts, files and figures are refused in one sentence that names them."""

import jax
import numpy as np
import pytest

import flowrax as frx
import flowrax.plot

KEY = jax.random.key(0)
ROWS = np.asarray(jax.random.normal(KEY, (8, 2)))
MODEL = frx.Model(frx.nn.MLP((2,), key=KEY, width=4, depth=1), frx.Linear(), shape=(2,))
ESTIMATOR = frx.DensityEstimator(MODEL, shift=0.0, scale=1.0)
TOKENS = frx.CategoricalModel(lambda t, x, c: x, frx.discrete.CosineMasking(), prior=frx.discrete.Masked((3,), 4))
CURVE = np.arange(3.0)
d, loss, plot = frx.discrete, frx.loss, flowrax.plot


def fit(**options):
    return frx.fit(**{"model": MODEL, "data": ROWS, "key": KEY, "progress": False} | options)


MESSAGES = [
    (
        lambda: fit(loss=d.CrossEntropy()),
        "CrossEntropy is not a loss of a Model; leave loss out, or use for example Matching()",
    ),
    (lambda: fit(loss="matching"), "loss must be a loss; got the string 'matching'."),
    (lambda: fit(coupling=frx.ExactOT), "coupling must be a coupling; got the class ExactOT: write ExactOT()."),
    (
        lambda: fit(optimizer=ROWS),
        "optimizer must be an optax transformation, with init and update; got an array of sh",
    ),
    (lambda: fit(ema_decay=True), "ema_decay must be a number; got True."),
    (lambda: fit(ema_decay=ROWS), "ema_decay must be a number; got an array of shape (8, 2)"),
    (lambda: fit(progress="yes"), "progress must be "),
    (lambda: fit(num_steps=10**12), "num_steps must be below 2^31; got 1000000000000."),
    (lambda: fit(checkpoint=3), 'checkpoint must be the path of a file, such as "run.frx"; got 3.'),
    (lambda: fit(validation_condition=ROWS), "validation_condition is given without validation, the held-out rows"),
    (
        lambda: fit(validation=ROWS, validation_x0=ROWS),
        "validation_x0 is given without x0; the rows of data must be pa",
    ),
    (lambda: fit(validation=ROWS, x0=ROWS), "validation_x0 is missing: with x0, held-out rows must be pairs too."),
    (
        lambda: fit(condition=iter([ROWS])),
        "condition is an iterator, but an array is expected; data may yield (rows, c",
    ),
    (lambda: ESTIMATOR.sample("key", 2), "key must be a random key, not str; pass key=jax.random.key(seed)."),
    (
        lambda: ESTIMATOR.fit(ROWS, KEY, validation_condition=ROWS),
        "validation_condition is given without validation, the held-out rows",
    ),
    (lambda: d.Transitions("a"), "matrices has dtype <U1, but an array of real numbers is expected."),
    (lambda: loss.dispersion(ROWS[:0]), "features of shape (n, ...) and one temperature are expected; got (0, 2)"),
    (lambda: ESTIMATOR.save(None), 'path must be the path of a file, such as "run.frx"; got None.'),
    (lambda: ESTIMATOR.load(0), 'path must be the path of a file, such as "run.frx"; got 0.'),
    (lambda: frx.save(b"a", MODEL), 'path must be the path of a file, such as "run.frx"; got an object of type bytes.'),
    (lambda: frx.save("a", MODEL, metadata=ROWS), "metadata must be a dictionary"),
    (
        lambda: frx.save("a", np.ma.masked_array(ROWS, ROWS > 0)),
        "A masked array cannot be saved, since its mask would b",
    ),
    (lambda: frx.Matching(weight=None), "weight must be a weight; got None."),
    (lambda: frx.Matching(weight=loss.SNR), "weight must be a weight; got the class SNR: write SNR()."),
    (lambda: loss.Truncated("a"), "cutoff must be a number; got the string 'a'."),
    (lambda: loss.MeanFlowGuidance([1.0]), "scale must be a number; got an object of type list."),
    (lambda: loss.ConditionDropout(None), "probability must be a number; got None."),
    (lambda: loss.RepresentationAlignment(block=0.5), "block must be an integer; got 0.5."),
    (lambda: loss.dispersion("a"), "features has dtype <U1, but an array of real numbers is expected."),
    (lambda: loss.dispersion(ROWS, -1.0), "temperature must be positive; got -1.0."),
    (
        lambda: loss.ConditionDropout(0.5, null=0.0)({"a": 1.0}, KEY),
        "null has the structure PyTreeDef(*) but the condition",
    ),
    (
        lambda: loss.ConditionDropout(0.5, null=ROWS)(1.0, KEY),
        "null has a leaf of shape (8, 2) but the condition has ()",
    ),
    (
        lambda: d.ClassifierFreeCategorical(TOKENS, 1.0, null="a"),
        "null has dtype <U1, but an array of real numbers is exp",
    ),
    (lambda: d.Masked("ab", 4), "shape must be a tuple of integers such as (2,); got the string 'ab'."),
    (lambda: d.UniformCategorical((2,), 10**12), "num_classes must be below 2^31; got 1000000000000."),
    (lambda: d.Ancestral(temperature="a"), "temperature must be a number; got the string 'a'."),
    (lambda: d.PolynomialMasking(None), "exponent must be a number; got None."),
    (lambda: d.oracle.Joint("a"), "table has dtype <U1, but an array of real numbers is expected."),
    (lambda: d.oracle.Joint([1.0, np.inf]), "table must be finite, not negative and not all zero"),
    (lambda: d.oracle.Joint([]), "table must have shape (K,) * L and at most 4096 entries; got (0,)."),
    (
        lambda: d.oracle.Markov([0.5, 0.5], None, 3),
        "transition has dtype object, but an array of real numbers is expected.",
    ),
    (lambda: plot.images("a"), "grid has dtype <U1, but an array of real numbers is expected."),
    (
        lambda: plot.images(np.ones((1, 1, 2, 2)), value_range=(1.0, 0.0)),
        "value_range[0]=1.0 is not below value_range[1]=",
    ),
    (lambda: plot.images(np.ones((1, 1, 2, 2)), cell=0.0), "cell must be positive; got 0.0."),
    (
        lambda: plot.images(np.ones((1, 1, 2, 2)), colour_map="grau"),
        "colour_map must be the name of a matplotlib colour",
    ),
    (
        lambda: plot.images(np.ones((1, 1, 2, 2)), row_titles=[1]),
        "row_titles must be a list of strings; got an object of",
    ),
    (lambda: plot.trajectory(np.ones((1, 1, 2, 2)), 0.5), "times has shape () but (n,) is expected."),
    (
        lambda: plot.likelihood_calibration(CURVE, CURVE, CURVE[:2]),
        "standard_error has shape (2,) but (3,) is expected.",
    ),
    (lambda: plot.likelihood_calibration(CURVE * np.nan, CURVE, CURVE + 1), "exact holds 3 NaN or"),
    (lambda: plot.training_curve(CURVE, CURVE[:2]), "train_loss has shape (2,) but (3,) is expected."),
    (lambda: plot.training_curve(CURVE, CURVE, best_step="a"), "best_step must be an integer; got the string 'a'."),
    (lambda: plot.training_curve(CURVE, CURVE, title=3), "title must be a string; got 3."),
]


@pytest.mark.parametrize(("call", "message"), MESSAGES, ids=[message[:40] for _, message in MESSAGES])
def test_messages(call, message, untyped):
    with pytest.raises(ValueError) as caught:
        call()
    assert str(caught.value).startswith(message)
