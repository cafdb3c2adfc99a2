"""A checkpoint belongs to one run, and a run survives the failure of its checkpoint."""

import errno
import os
import types

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flowrax as frx
from flowrax.train.resume import RunFile
from flowrax.train.step import TrainState

KEY = jax.random.key(0)


def mlp(activation=jax.nn.silu):
    return frx.nn.MLP((2,), key=KEY, width=3, depth=1, num_frequencies=1, activation=activation)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def state(step):
    return TrainState(None, None, None, jnp.asarray(step), None, jnp.zeros(()), jnp.asarray(0))


def arguments(**changes):
    digits = types.SimpleNamespace(mean=np.ones(2))
    return {
        "model": frx.Model(mlp(), frx.schedule.LearnedSNR(KEY, -4.0, 4.0, width=2), shape=(2,)),
        "data": np.zeros((5, 2)),
        "condition": {"label": np.arange(5)},
        "loss": frx.Matching(),
        "optimizer": optax.adam(optax.cosine_decay_schedule(1e-3, 100)),
        "augment": lambda key, row: row - digits.mean,
        "key": KEY,
    } | changes


RUNS = {
    "network": ({"model": frx.Model(mlp(jnp.tanh), frx.Linear(), shape=(2,))}, r"model\.network\.activation is"),
    "schedule": (
        {"model": frx.Model(mlp(), frx.schedule.LearnedSNR(KEY, -5.0, 4.0, width=2), shape=(2,))},
        r"model\.interpolant\.schedule\.\S+ is",
    ),
    "optimizer": ({"optimizer": optax.adam(optax.cosine_decay_schedule(1e-2, 100))}, r"optimizer\.\S+ is 0\.001 in"),
    "moments": ({"optimizer": optax.adam(optax.cosine_decay_schedule(1e-3, 100), b1=0.5)}, r"optimizer\.\S+b1 is 0\.9"),
    "shape": ({"data": np.zeros((6, 2))}, r"data is float64\[5, 2\] with .* and float64\[6, 2\] with .* in this run"),
    "values": ({"data": np.ones((5, 2))}, r"data is float64\[5, 2\] with digest \w+ in the file and float64\[5, 2\]"),
    "condition": ({"condition": None}, r"condition is dict in the file and None in this run"),
    "loss": ({"loss": frx.Matching(weight=frx.loss.SNR())}, r"loss\.weight is"),
    "augment": ({"augment": lambda key, row: row + 1}, r"augment\.__code__ is"),
    "key": ({"key": jax.random.key(1)}, r"key is key<fry>\[\] with digest"),
}


@pytest.mark.parametrize("name", RUNS)
def test_another_run_is_refused_by_the_name_of_what_differs(name, tmp_path):
    changes, message = RUNS[name]
    path = tmp_path / "run.frx"
    RunFile(path, arguments()).write(state(1), [[1.0, float("nan"), 0.5]])
    with pytest.raises(ValueError, match=f"belongs to another run: .*{message}") as caught:
        RunFile(path, arguments(**changes)).restore(state(0))
    assert "Remove the file, or use another path for this run." in str(caught.value)
    restored, history = RunFile(path, arguments()).restore(state(0))
    assert restored.step == 1 and history[0][0] == 1.0 and np.isnan(history[0][1])


def test_a_saved_model_is_no_training_run(tmp_path):
    frx.save(tmp_path / "a.frx", {})
    with pytest.raises(ValueError, match="holds a saved object and no training run; use another path"):
        RunFile(tmp_path / "a.frx", arguments()).restore(state(0))


class Scale(eqx.Module):
    scale: jax.Array

    def __call__(self, t, x, condition):
        return self.scale * x


def train(path, **options):
    model = frx.Model(Scale(jnp.ones(())), frx.Linear(), shape=(2,))
    options = {"num_steps": 4, "validate_every": 2, "batch_size": 4, "progress": False} | options
    return frx.fit(model, np.ones((8, 2), np.float32), KEY, checkpoint=path, **options)


def test_a_path_that_cannot_be_written_is_noticed_before_training(tmp_path):
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(OSError, match=r"b\.frx could not be written"):
        train(tmp_path / "a" / "b.frx", num_steps=10**9)


@pytest.mark.accuracy
def test_a_full_disk_does_not_lose_what_is_trained(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.warns(UserWarning, match=r"The checkpoint of step \d was not saved: .*No space left.*goes on\."):
            result = train(tmp_path / "run.frx")
    assert result.num_steps == 4 and names(tmp_path) == []
    assert result.stopped.startswith("All 4 steps were taken. The checkpoint of step 4 was not saved: ")
    assert train(tmp_path / "run.frx").stopped == "All 4 steps were taken."
    assert names(tmp_path) == ["run.frx"]
    # The default optimiser depends on the number of steps, which may grow.
    assert train(tmp_path / "run.frx", num_steps=6).num_steps == 6
    with pytest.raises(ValueError, match="another run: optimizer is 'default' in the file and .*GradientTransf"):
        train(tmp_path / "run.frx", optimizer=optax.sgd(0.1))
