"""Short tracebacks: an error raised while a solve is traced passes through a hundred frames that do not help."""

import functools
import importlib.util
import inspect
import os
import types
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax

_HIDDEN = ("flowrax", "jax", "jaxlib", "equinox", "diffrax", "optimistix", "jaxtyping", "beartype")

# The frames of these wrappers carry no information.
_WRAPPERS = (os.path.join("_base", "tracebacks.py"), os.path.join("_base", "arguments.py"))

P = ParamSpec("P")
R = TypeVar("R")


def short_traceback(function: Callable[P, R]) -> Callable[P, R]:
    """A function whose errors show only the frames outside flowrax and the libraries it calls, and the last frame.

    `JAX_TRACEBACK_FILTERING=off` shows all frames, as it does for JAX.
    """

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            short = shortened(error, args)
        raise short from None

    return wrapper


def shortened(error: Exception, args: tuple[Any, ...]) -> Exception:
    """The error of a call, with only the frames outside flowrax and the libraries, and the last frame."""
    if jax.config.jax_traceback_filtering == "off":  # pyright: ignore[reportAttributeAccessIssue]
        return error
    short = _explained(error, getattr(args[0], "network", None) if args else None)
    return short.with_traceback(_filtered(error.__traceback__))


def _explained(error: Exception, network: Any) -> Exception:
    """The error, or an error that states how a network is called, if the model's network does not accept that call."""
    if callable(network) and isinstance(error, TypeError) and not _takes_three(network):
        name = getattr(network, "__name__", type(network).__name__)
        signature = inspect.signature(network)
        return TypeError(f"The network is called as network(t, x, condition), which {name}{signature} does not take.")
    # Drop the note of JAX that its own frames were removed.
    error.__notes__ = [note for note in getattr(error, "__notes__", []) if "JAX_TRACEBACK_FILTERING" not in note]
    return error


def _takes_three(network: Callable[..., Any]) -> bool:
    try:
        inspect.signature(network).bind(None, None, None)
    except TypeError:
        return False
    except ValueError:  # Some callables have no signature.
        return True
    return True


@functools.cache
def _hidden_folders() -> tuple[str, ...]:
    specs = (
        importlib.util.find_spec(name) for name in ("flowrax", "jax", "jaxlib", "equinox", "diffrax", "optimistix")
    )
    return tuple(os.path.dirname(spec.origin) + os.sep for spec in specs if spec is not None and spec.origin)


def _filtered(traceback: types.TracebackType | None) -> types.TracebackType | None:
    """The frames of the caller's own code, and the frame that raised."""
    kept = []
    while traceback is not None:
        name = traceback.tb_frame.f_code.co_filename
        is_last = traceback.tb_next is None and not name.endswith(_WRAPPERS)
        if is_last or not (name.startswith(_hidden_folders()) or name.startswith("<")):
            kept.append(traceback)
        traceback = traceback.tb_next
    short = None
    for frame in reversed(kept):
        short = types.TracebackType(short, frame.tb_frame, frame.tb_lasti, frame.tb_lineno)
    return short
