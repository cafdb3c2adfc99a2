"""Settings and fixtures of every test: strict numerics, keys from names, x64 on request."""

import gc
import itertools
import os
import pathlib
import zlib
from collections.abc import Callable, Iterator

# The tests draw figures on machines without a display.
os.environ.setdefault("MPLBACKEND", "Agg")

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

TIERS = ("fast", "accuracy", "gpu")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not any(item.get_closest_marker(tier) for tier in TIERS):
            item.add_marker("fast")
        if item.get_closest_marker("gpu") and jax.default_backend() != "gpu":
            item.add_marker(pytest.mark.skip(reason="no GPU"))


# Every compiled program maps memory, and Linux lets a process have 65,530 maps: beyond that, compilation crashes.
MAPS, MOST_MAPS = pathlib.Path("/proc/self/maps"), 25_000


def pytest_runtest_teardown() -> None:
    if MAPS.exists() and MAPS.read_bytes().count(b"\n") > MOST_MAPS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def x64() -> Iterator[None]:
    """Double precision for the length of one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def key(request: pytest.FixtureRequest) -> jax.Array:
    """A key that depends on the test's name alone."""
    return jax.random.key(zlib.crc32(request.node.name.encode()))


@pytest.fixture
def getkey(key: jax.Array) -> Callable[[], jax.Array]:
    """Gives another key at each call, the same ones in each run."""
    counter = itertools.count()
    return lambda: jax.random.fold_in(key, next(counter))
