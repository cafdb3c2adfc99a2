"""Settings and fixtures of every test: strict numerics, keys from names, x64 on request."""

import collections
import functools
import gc
import itertools
import os
import pathlib
import zlib
from collections.abc import Callable, Iterator

# The tests draw figures on machines without a display.
os.environ.setdefault("MPLBACKEND", "Agg")
# A test compiles for longer than it computes, so XLA compiles quickly here rather than well. Tests that measure time or
# memory are marked `measured` and run on their own, with `XLA_FLAGS` set to nothing. The passes left out pay for large
# arrays and long loops, or check the compiler itself: without them large programs compile in four fifths of the time.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true --xla_cpu_use_fusion_emitters=false "
    "--xla_cpu_parallel_codegen_split_count=1 --xla_disable_hlo_passes=hlo-verifier,cpu-parallel-task-assigner,"
    "while-loop-invariant-code-motion,while-loop-constant-sinking,while-loop-trip-count-annotator,"
    "small-while-loop-hoisting,dynamic-dimension-simplifier,tree_reduction_rewriter,reshape-mover",
)

import jax
import jaxtyping
import pytest
from jax._src import traceback_util

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# Errors of flowrax show all of their frames in tests.
jax.config.update("jax_traceback_filtering", "off")
# `eqx.error_if` asks of each frame of the stack, which is deep in a test, whether its file is one of jax's. The answer
# takes system calls for every file of a long list, and is the same each time.
traceback_util.include_filename = functools.cache(traceback_util.include_filename)

TIERS = ("fast", "accuracy", "measured", "gpu")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not any(item.get_closest_marker(tier) for tier in TIERS):
            item.add_marker("fast")
        if item.get_closest_marker("gpu") and jax.default_backend() != "gpu":
            item.add_marker(pytest.mark.skip(reason="no GPU"))


class Compilations:
    """Counts what each test compiles and for how long, and lists the tests that compile longest."""

    def __init__(self) -> None:
        self.test = "outside of tests"
        self.programs: dict[str, list[tuple[float, str]]] = collections.defaultdict(list)
        jax.monitoring.register_event_duration_secs_listener(self.heard)

    def heard(self, event: str, seconds: float, **details: str | int) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            self.programs[self.test].append((seconds, str(details.get("fun_name", "?"))))

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        self.test = item.nodeid

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        totals = {test: sum(seconds for seconds, _ in programs) for test, programs in self.programs.items()}
        number = sum(map(len, self.programs.values()))
        terminalreporter.write_sep("=", f"{number} programs compiled in {sum(totals.values()):.0f} s")
        for test in sorted(totals, key=lambda test: -totals[test])[:40]:
            slowest = ", ".join(f"{name} {seconds:.1f}" for seconds, name in sorted(self.programs[test])[:-4:-1])
            terminalreporter.write_line(f"{totals[test]:6.1f} s  {len(self.programs[test]):4d}  {test}  ({slowest})")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--compilations", action="store_true", help="list the tests that compile longest (one process)")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--compilations"):
        config.pluginmanager.register(Compilations())


def pytest_collection_finish() -> None:
    """Spares the garbage collector what was imported, and what is traced until there is more of it.

    Traces are many objects that live on: looking through them again and again took 8 to 10% of the processor time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 10, 10)


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
def untyped() -> Iterator[None]:
    """Calls as users make them, without the checks of types at run time, which the tests add."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def key(request: pytest.FixtureRequest) -> jax.Array:
    """A key that depends on the test's name alone."""
    return jax.random.key(zlib.crc32(request.node.name.encode()))


@pytest.fixture
def getkey(key: jax.Array) -> Callable[[], jax.Array]:
    """Gives another key at each call, the same ones in each run."""
    counter = itertools.count()
    return lambda: jax.random.fold_in(key, next(counter))
