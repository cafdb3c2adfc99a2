"""Sets the number of threads before JAX and torch are imported, and records the machine and the versions."""

import datetime
import functools
import importlib.metadata
import os
import pathlib
import platform
import subprocess

THREADS = 2
ROOT = pathlib.Path(__file__).parent.parent
CACHE = ROOT / "benchmarks" / ".cache"
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = (
    "flowrax jax jaxlib diffrax equinox optax numpy scipy "
    "torch torchdiffeq torchcfm flow_matching k-diffusion diffusers POT bionemo-moco"
).split()
SETTINGS = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "MKL_NUM_THREADS", "NPROC", "XLA_FLAGS", "OPENBLAS_CORETYPE")


def settle():
    """Gives XLA and torch the same cores and numbers of threads; call it before either is imported."""
    cores = list(range(min(THREADS, os.cpu_count() or 1)))
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))[:THREADS]
        os.sched_setaffinity(0, cores)
    # XLA takes the size of its thread pool from NPROC, torch from the other two.
    for name in ("NPROC", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(len(cores))
    # By default idle torch threads spin and occupy cores; on a shared machine this made torch ten times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=true")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE / "jax"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "1")
    CACHE.mkdir(parents=True, exist_ok=True)


def record():
    import jax

    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "device": f"{jax.devices()[0].platform}: {jax.devices()[0].device_kind}",
        "processor": _processor(),
        "cores": int(os.environ.get("NPROC", os.cpu_count() or 1)),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "settings": {name: os.environ[name] for name in SETTINGS if name in os.environ},
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
    }


def _version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


@functools.cache
def _commit():
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    answer = subprocess.run(command, capture_output=True, text=True)
    return answer.stdout.strip() or "unknown"


def _processor():
    path = pathlib.Path("/proc/cpuinfo")
    if not path.exists():
        return platform.processor()
    names = [line.split(":")[1].strip() for line in path.read_text().splitlines() if line.startswith("model name")]
    return f"{names[0]} ({platform.machine()})" if names else platform.processor()
