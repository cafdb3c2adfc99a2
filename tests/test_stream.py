"""Training on rows that are not in memory: files of which rows are read, and iterators of batches."""

import itertools
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flowrax as frx
from flowrax.train.step import drawn

KEY = jax.random.key(0)
N, BATCH, STEPS = 300, 8, 11
ROWS = np.random.default_rng(0).normal(size=(N, 2)).astype(np.float32)
LABELS = np.arange(N, dtype=np.float32)[:, None] / N
TOKENS = np.random.default_rng(1).integers(0, 3, (N, 2))


class Affine(eqx.Module):
    """A small network of one parameter."""

    scale: jax.Array

    def __call__(self, t, x, condition):
        shift = 0 if condition is None else jnp.sum(condition["label"])
        return self.scale * (x + t + shift)


class Logits(eqx.Module):
    scale: jax.Array

    def __call__(self, t, x, condition):
        return self.scale * jax.nn.one_hot((x + 1) % 3, 3)


def model(**options):
    return frx.Model(Affine(jnp.ones(())), frx.Linear(), shape=(2,), **options)


def tokens():
    prior = frx.discrete.UniformCategorical((2,), 3)
    return frx.CategoricalModel(Logits(jnp.ones(())), frx.discrete.CosineMasking(), prior=prior)


CASES = {
    "conditions": (model(), {"data": ROWS, "condition": {"label": LABELS}}),
    "pairs": (model(), {"data": ROWS, "x0": ROWS[::-1]}),
    "transport": (model(coupling=frx.ExactOT(block_size=4)), {"data": ROWS, "condition": {"label": LABELS}}),
    "augmented": (model(), {"data": TOKENS, "augment": lambda key, row: row + jax.random.uniform(key, (2,))}),
    "classes": (tokens(), {"data": TOKENS}),
}


def fit(of, key=KEY, **options):
    options = {"num_steps": STEPS, "progress": False} | options
    return frx.fit(of, key=key, **options)


def in_file(tmp_path):
    """A function that writes an array to a file of its own and maps it."""
    numbers = itertools.count()

    def mapped(leaf):
        path = tmp_path / f"{next(numbers)}.npy"
        np.save(path, leaf)
        return np.load(path, mmap_mode="r")

    return mapped


def batches(start=0, stop=STEPS, rows=ROWS, condition=None):
    """The batches that `fit` draws from `rows`."""
    key, _ = jax.random.split(KEY)
    for step in range(start, stop):
        index = np.asarray(drawn(key, jnp.asarray(step), BATCH, len(rows))[0])
        yield rows[index] if condition is None else (rows[index], {k: v[index] for k, v in condition.items()})


def same(one, other):
    assert eqx.tree_equal(one.model.network, other.model.network)
    assert eqx.tree_equal(one.last_model.network, other.last_model.network)
    np.testing.assert_array_equal(one.history["train_loss"], other.history["train_loss"])


@pytest.mark.accuracy
@pytest.mark.parametrize("name", CASES)
def test_rows_in_files_train_as_rows_in_memory(name, tmp_path):
    of, arguments = CASES[name]
    mapped = in_file(tmp_path)
    stored = {k: v if callable(v) else jax.tree.map(mapped, v) for k, v in arguments.items()}
    want, got = (fit(of, batch_size=BATCH, validate_every=7, **options) for options in (arguments, stored))
    same(got, want)
    assert np.abs(got.last_model.network.scale - 1) > 1e-3


class DataSet:
    """Reads rows in increasing order only, as h5py does, and counts them."""

    def __init__(self, rows):
        self.rows, self.shape, self.dtype, self.read = rows, rows.shape, rows.dtype, []

    def __getitem__(self, index):
        assert np.all(np.diff(index) > 0)
        self.read.append(len(index))
        return self.rows[index]


def test_only_the_rows_of_the_batches_are_read():
    data = DataSet(ROWS)
    got = fit(model(), data=data, batch_size=BATCH)
    same(got, fit(model(), data=ROWS, batch_size=BATCH))
    # The first batch is read twice: it is also checked before training.
    assert len(data.read) == STEPS + 1 and max(data.read) <= BATCH


def test_batches_of_an_iterator_are_those_of_the_steps():
    condition = {"label": LABELS}
    got = fit(model(), data=batches(condition=condition))
    same(got, fit(model(), data=ROWS, condition=condition, batch_size=BATCH))
    assert got.stopped == f"All {STEPS} steps were taken."


def test_an_iterable_starts_again_at_its_end():
    class Loader:
        def __iter__(self):
            return batches(0, 4)

    endless = itertools.chain.from_iterable(batches(0, 4) for _ in itertools.count())
    same(fit(model(), data=Loader()), fit(model(), data=endless))


def test_an_array_that_is_filled_again_is_copied():
    def filled():
        held = np.empty((BATCH, 2), np.float32)
        for batch in batches():
            held[:] = batch
            yield held

    same(fit(model(), data=filled()), fit(model(), data=batches()))


@pytest.mark.parametrize("kind", ["file", "iterator"])
def test_a_killed_run_resumes_to_the_same_bits(kind, tmp_path):
    stored = in_file(tmp_path)(ROWS)

    def run(stop, **options):
        data = {"data": batches()} if kind == "iterator" else {"data": stored, "batch_size": BATCH}
        return fit(model(), num_steps=stop, validate_every=3, optimizer=optax.adam(0.1), **data, **options)

    whole = run(STEPS)
    run(6, checkpoint=tmp_path / "a.frx")
    same(run(STEPS, checkpoint=tmp_path / "a.frx"), whole)
    if kind == "iterator":
        with pytest.raises(ValueError, match="belongs to another run: data"):
            fit(model(), data=batches(1), validate_every=3, optimizer=optax.adam(0.1), checkpoint=tmp_path / "a.frx")


def test_an_iterator_that_ends_is_reported():
    with pytest.warns(UserWarning, match="fit took 5 of 11 steps. The iterator of data ended; kept the weights of"):
        got = fit(model(), data=batches(0, 5), optimizer=optax.adam(0.1), validate_every=3, validation=ROWS[:9])
    want = fit(model(), data=batches(), num_steps=5, optimizer=optax.adam(0.1), validate_every=3, validation=ROWS[:9])
    same(got, want)
    assert got.num_steps == 5 and list(got.history["step"]) == [3, 5]


def spoilt(number, change):
    """Batches of which one is changed."""
    for k, batch in enumerate(batches()):
        yield change(batch) if k == number else batch


def hole(x, at):
    x = np.array(x)
    x[at] = np.nan
    return x


MESSAGES = {
    "NaN in a batch": (
        {"data": lambda: spoilt(7, lambda x: hole(x, (3, 1)))},
        "batch 7 of data holds 1 NaN or infinite values; remove or impute them first. The first is in row 3, column 1.",
    ),
    "a smaller batch": (
        {"data": lambda: spoilt(10, lambda x: x[:5])},
        "batch 10 of data has 5 rows but the first batch has 8; all batches must have the same number: leave out a",
    ),
    "a wider batch": (
        {"data": lambda: spoilt(1, lambda x: x[:, [0, 1, 0]])},
        "One row of batch 1 of data has shape (3,) but (2,) is expected.",
    ),
    "a condition at once": (
        {"data": lambda: spoilt(2, lambda x: (x, LABELS[:8]))},
        "the condition of batch 2 of data has the structure PyTreeDef(*) but the condition of the first batch has",
    ),
    "three parts": (
        {"data": lambda: spoilt(0, lambda x: (x, x, x))},
        "batch 0 of data is a tuple of 3, but rows or (rows, condition) are expected.",
    ),
    "text": ({"data": lambda: iter(["a"])}, "batch 0 of data has dtype <U1, but an array of real numbers is expected."),
    "numbers": ({"data": lambda: range(5)}, "batch 0 of data is one value but an array of rows is expected."),
    "no batches": ({"data": lambda: iter([])}, "data is an iterator that has no batches; one that has been used"),
    "another size": (
        {"data": batches, "batch_size": 9},
        "batch_size=9 but the first batch of data has 8 rows; leave batch_size out.",
    ),
    "condition beside an iterator": (
        {"data": batches, "condition": LABELS},
        "data is an iterator of batches, to which condition and x0 do not apply; let it yield (rows, condition).",
    ),
    "iterator of held-out rows": (
        {"data": batches, "validation": batches()},
        "validation is an iterator, but held-out rows are evaluated many times; pass an array.",
    ),
    "NaN in a file": (
        {"data": lambda: DataSet(hole(ROWS, (slice(120, None), 1))), "batch_size": 1, "key": jax.random.key(4)},
        "data holds 1 NaN or infinite values; remove or impute them first. The first is in row 187,",
    ),
    "fewer conditions than a file has rows": (
        {"data": lambda: DataSet(ROWS), "condition": LABELS[:9]},
        "condition has 9 rows but data has 300.",
    ),
    "an empty file": ({"data": lambda: DataSet(ROWS[:0])}, "data has no rows."),
    "one value in a file": (
        {"data": lambda: DataSet(ROWS[0, 0].reshape(()))},
        "data is one value but an array of rows is expected.",
    ),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_messages(name):
    options, message = MESSAGES[name]
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        fit(model(), **options | {"data": options["data"]()})


def test_an_error_of_the_iterator_is_its_own():
    def failing():
        yield from batches(0, 3)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        fit(model(), data=failing())


@pytest.mark.accuracy
def test_a_density_of_rows_in_a_file(tmp_path, monkeypatch):
    """Read in pieces of 20 rows: moments and training are those of rows in memory."""
    monkeypatch.setattr("flowrax.density.standardise._PIECE", 40)
    rows = ROWS * [2.0, 5.0] + [100.0, -3.0]
    estimator = frx.DensityEstimator((2,), key=KEY)
    options = {"num_steps": 5, "batch_size": BATCH, "progress": False}
    got = estimator.fit(in_file(tmp_path)(rows), KEY, **options)
    want = estimator.fit(rows, KEY, **options)
    np.testing.assert_allclose(got.estimator.standard.scale, rows.std(0), rtol=1e-6)
    np.testing.assert_allclose(got.estimator.standard.shift, rows.mean(0), rtol=1e-6)
    np.testing.assert_allclose(got.result.history["train_loss"], want.result.history["train_loss"], rtol=1e-5)
    for spoilt, message in [
        (hole(rows, (77, 1)), "The first is in row 77, column 1."),
        (rows[:, [0, 0]] * [1, 0], "data is constant in column 1 of 300 rows"),
        (iter([rows]), "data is an iterator, but the rows are read for their means before training"),
    ]:
        stored = in_file(tmp_path)(spoilt) if isinstance(spoilt, np.ndarray) else spoilt
        with pytest.raises(ValueError, match=message):
            estimator.fit(stored, KEY, **options)
