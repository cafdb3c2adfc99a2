"""Imports ott-jax at its first use, because the import takes two seconds."""

import contextlib
import importlib
import sys
import warnings
from collections.abc import Iterator

import jax


@contextlib.contextmanager
def ott_jax() -> Iterator[None]:
    """Imports ott-jax, and allows the mixed ranks and dtypes of its code regardless of JAX's settings."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        if "ott" not in sys.modules:
            # ott-jax imports the archived JAXopt, which warns; modules that are imported during a trace must not keep
            # its tracers.
            with warnings.catch_warnings(), jax.ensure_compile_time_eval():
                warnings.filterwarnings("ignore", message="JAXopt is no longer maintained", category=DeprecationWarning)
                importlib.import_module("ott")
        yield
