"""The fixture for several devices, and what it is for: one device and eight agree on all three verbs."""

import os
import pathlib
import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import flowrax as frx
from flowrax.testing import _run, run_on_devices

KEY = jax.random.key(0)


def split(x):
    """Rows over all devices of the process."""
    mesh = Mesh(np.array(jax.devices()), ("rows",))
    return jax.device_put(x, NamedSharding(mesh, PartitionSpec("rows")))


def verbs():
    """Sampling, log-densities and one training step of a conditional estimator, on all devices of the process."""
    data = split(3 + 2 * jax.random.normal(KEY, (64, 2)))
    condition = split(jax.random.normal(jax.random.fold_in(KEY, 1), (64, 1)))
    network = frx.nn.MLP((2,), key=KEY, condition_size=1, width=16, depth=1)
    estimator = frx.DensityEstimator(frx.Model(network, frx.Linear(), shape=(2,)), condition=np.zeros(1))
    fitted = estimator.fit(
        data, KEY, condition=condition, num_steps=1, batch_size=32, optimizer=optax.sgd(1e-2), progress=False
    )
    density = fitted.estimator
    options = {"condition": frx.Batched(condition[:16]), "rtol": 1e-6, "atol": 1e-6}
    x0 = split(jax.random.normal(jax.random.fold_in(KEY, 2), (16, 2)))
    draws = density.sample(KEY, 16, x0=x0, **options)
    sde = density.sample(
        KEY, 16, x0=x0, dynamics=frx.ReverseSDE(t_min=0.05, t_max=0.95), grid=20, condition=condition[0]
    )
    value = density.log_prob(split(data[:16]), divergence=frx.Hutchinson(2), key=KEY, **options)
    # `jax.make_mesh` makes the sharding a part of the type of an array.
    explicit = jax.device_put(
        data, NamedSharding(jax.make_mesh((len(jax.devices()),), ("rows",)), PartitionSpec("rows"))
    )
    trained = frx.fit(
        estimator.model, explicit, KEY, condition=condition, num_steps=9, batch_size=32, validation=explicit,
        validation_condition=condition, optimizer=optax.sgd(1e-2), progress=False
    )  # fmt: skip
    weights = [leaf for leaf in jax.tree.leaves(fitted.result.last_model) if eqx.is_inexact_array(leaf)]
    return {
        "devices": len(jax.devices()),
        "spread": len(draws.x.sharding.device_set),
        "sample": draws.x,
        "sde": sde.x,
        "log_prob": value.value,
        "losses": np.concatenate([trained.history[name] for name in ("train_loss", "validation_loss")]),
        "weights": jnp.concatenate([jnp.ravel(leaf) for leaf in weights]),
    }


@pytest.mark.accuracy
def test_one_device_and_eight_agree(x64):
    """To rounding: the draws of a sample do not depend on where it lies, and training to the bit."""
    one, eight = run_on_devices(verbs, 1), run_on_devices(verbs, 8)
    assert (one["devices"], eight["devices"], eight["spread"]) == (1, 8, 8)
    for name in ("sample", "sde", "log_prob", "weights"):
        assert one[name].dtype == np.float64
        np.testing.assert_allclose(eight[name], one[name], rtol=0, atol=1e-9, err_msg=name)
    np.testing.assert_array_equal(eight["losses"], one["losses"])


def settings(*arguments):
    assert arguments == ("a", "b c")
    return {
        "devices": len(jax.devices()),
        "bits": jnp.finfo(jnp.result_type(float)).bits,
        "strict": jax.config.jax_numpy_dtype_promotion == "strict",
    }


def failing():
    raise FileNotFoundError("the body's own words")


def sleeping():
    import time

    time.sleep(600)


def test_the_process_has_the_devices_and_the_settings_of_this_one(x64):
    assert {name: int(value) for name, value in run_on_devices(settings, 3, "a", "b c").items()} == {
        "devices": 3,
        "bits": 64,
        "strict": 1,
    }


def test_failures_are_told():
    with pytest.raises(RuntimeError, match="failing failed on 2 devices:(?s:.)*the body's own words"):
        run_on_devices(failing, 2)
    with pytest.raises(subprocess.TimeoutExpired):
        run_on_devices(sleeping, 2, timeout=0.5)
    with pytest.raises(ValueError, match="is inside another function"):
        run_on_devices(lambda: {}, 2)
    with pytest.raises(ValueError, match="count must be at least 1; got 0"):
        run_on_devices(settings, 0)


def test_the_fixture_is_a_plugin(tmp_path):
    """As the docs load it, in a project of its own."""
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["flowrax.testing"]\n')
    (tmp_path / "test_mine.py").write_text(
        "import jax\n\n\ndef body():\n    return {'n': len(jax.devices())}\n\n\n"
        "def test_mine(on_devices):\n    assert on_devices(body, 4)['n'] == 4\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "1 passed" in ran.stdout, ran.stdout + ran.stderr


def test_flowrax_itself_needs_no_pytest():
    command = [sys.executable, "-c", "import sys, flowrax; assert 'pytest' not in sys.modules"]
    subprocess.run(command, check=True)


SCRIPT = """
import os, pathlib, sys
import jax
from flowrax.testing import run_on_devices

def body():
    return {"n": len(jax.devices()), "process": os.getpid()}

if __name__ == "__main__":
    print("main block")
    got = run_on_devices(body, 3)
    assert got["n"] == 3 and got["process"] != os.getpid()
"""


def run_script(folder, text):
    (folder / "script.py").write_text(text)
    return subprocess.run([sys.executable, str(folder / "script.py")], capture_output=True, text=True, check=False)


def test_the_main_block_of_a_script_runs_once(tmp_path):
    ran = run_script(tmp_path, SCRIPT)
    assert (ran.returncode, ran.stdout) == (0, "main block\n"), ran.stderr


def test_a_script_without_a_main_block_does_not_start_itself_over_and_over(tmp_path):
    ran = run_script(tmp_path, SCRIPT.replace('if __name__ == "__main__":', "if True:"))
    assert ran.returncode == 1 and "was called by a process that it started" in ran.stderr


def test_without_pytest(tmp_path):
    ran = run_script(tmp_path, "import sys\nsys.modules['pytest'] = None\n" + SCRIPT)
    assert ran.returncode == 0, ran.stderr


# Starts another process, as a data loader would, and then hangs.
STARTING = """
import pathlib, subprocess, sys
other = subprocess.Popen(["sleep", "300"])
pathlib.Path(sys.argv[1]).write_text(str(other.pid))
other.wait()
"""


def test_no_process_outlives_the_time_limit(tmp_path):
    path = tmp_path / "pid"
    with pytest.raises(subprocess.TimeoutExpired):
        _run([sys.executable, "-c", STARTING, str(path)], dict(os.environ), 3.0)
    status = pathlib.Path("/proc") / path.read_text() / "stat"
    # Killed: gone, or a zombie that waits for its new parent.
    assert not status.exists() or status.read_text().split(")")[1].split()[0] == "Z"
