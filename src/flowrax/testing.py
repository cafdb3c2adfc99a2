"""Runs tests of sharded code on several simulated CPU devices.

XLA fixes the number of devices when a process starts, so the test's body runs in a separate process. The fixture is
loaded by `pytest_plugins = ["flowrax.testing"]` in a `conftest.py`. `run_on_devices` works without pytest.
"""

import importlib.util
import inspect
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ._base.checks import check_count, check_positive

Body = Callable[..., Mapping[str, Any]]
"""A function at the top level of a module that returns arrays by name."""


def run_on_devices(body: Body, count: int, *arguments: str, timeout: float = 600.0) -> dict[str, np.ndarray]:
    """Calls `body(*arguments)` in a fresh process that has `count` CPU devices.

    The new process has the import path, the precision and the promotion rules of this one. It does not run the main
    block of a script, `if __name__ == "__main__":`. At the time limit all processes that it started end with it.

    **Arguments:**

    - `body`: a function at the top level of a module, which the new process imports; it returns a dictionary of arrays.
    - `count`: the number of devices, `len(jax.devices())` in the new process.
    - `arguments`: strings that are passed to `body`.
    - `timeout`: the time limit in seconds. Default: 600.

    **Returns:** the arrays that `body` returned, by name.

    **Raises:** `ValueError` for a function inside another or outside a file or a count below 1, `RuntimeError` with the
        end of the error output where `body` failed, `subprocess.TimeoutExpired` where it took too long.
    """
    count = check_count("count", count)
    check_positive("timeout", timeout)
    if _CHILD in os.environ:
        raise ValueError(
            "run_on_devices was called by a process that it started: keep the call in a main block or in a test, out "
            "of the top level of the module of its function."
        )
    if "<" in body.__qualname__:
        raise ValueError(f"{body.__qualname__} is inside another function; define it at the top level of its module.")
    with tempfile.TemporaryDirectory() as folder:
        answer = pathlib.Path(folder) / "answer.npz"
        where = (_file_of(body), body.__module__, body.__qualname__, str(answer))
        command = [sys.executable, "-c", "from flowrax.testing import _child; _child()", *where, *arguments]
        code, errors = _run(command, _environment(count), timeout)
        if code != 0:
            raise RuntimeError(f"{body.__qualname__} failed on {count} devices:\n{errors[-4000:]}")
        with np.load(answer, allow_pickle=False) as arrays:
            return dict(arrays)


_CHILD = "FLOWRAX_ON_DEVICES"


def _file_of(body: Body) -> str:
    try:
        return inspect.getfile(body)
    except (OSError, TypeError):
        raise ValueError(f"{body.__qualname__} is not in a file, which the new process could import.") from None


def _run(command: list[str], environment: dict[str, str], timeout: float) -> tuple[int, str]:
    """The exit code and the error output of a process; if it does not end in time, its whole group is killed."""
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, env=environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    ) as process:
        try:
            _, errors = process.communicate(timeout=timeout)
        except BaseException:
            if hasattr(os, "killpg"):
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            raise
        return process.returncode, errors


def _as_fixture(function: Callable[..., Any]) -> Any:
    """The function as a pytest fixture, where pytest is installed."""
    if importlib.util.find_spec("pytest") is None:
        return function
    import pytest

    return pytest.fixture(function)


@_as_fixture
def on_devices() -> Callable[..., dict[str, np.ndarray]]:
    """[`run_on_devices`][] as a pytest fixture.

    **Returns:** the function.
    """
    return run_on_devices


def _environment(count: int) -> dict[str, str]:
    flags = [f for f in os.environ.get("XLA_FLAGS", "").split() if "host_platform_device_count" not in f]
    config: Any = jax.config
    return {
        **os.environ,
        _CHILD: "1",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": " ".join([*flags, f"--xla_force_host_platform_device_count={count}"]),
        "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path),
        # These include settings made in this process by `jax.config` or a context manager.
        "JAX_ENABLE_X64": str(jnp.result_type(float) == jnp.float64),
        "JAX_NUMPY_DTYPE_PROMOTION": config.jax_numpy_dtype_promotion,
        "JAX_NUMPY_RANK_PROMOTION": config.jax_numpy_rank_promotion,
    }


def _child() -> None:
    """Runs in the new process: imports the body's module from its file, calls the body, and writes its arrays."""
    file, module_name, name, answer, *arguments = sys.argv[1:]
    # Under its own name the module of a script would run its main block again.
    module_name = "_main_of_body" if module_name == "__main__" else module_name
    spec = importlib.util.spec_from_file_location(module_name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    spec.loader.exec_module(module)
    arrays = getattr(module, name)(*arguments)
    named: Any = {key: np.asarray(value) for key, value in arrays.items()}
    np.savez(answer, **named)
