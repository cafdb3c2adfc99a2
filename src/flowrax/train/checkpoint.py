"""One file per checkpoint: a magic line, a JSON header, then the arrays in the order of the PyTree.

Loading runs no code: the structure comes from `like`, the arrays from numpy's format without pickle.
"""

import io
import json
import os
import pathlib
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

_MAGIC = b"flowrax checkpoint\n"
_VERSION = 1


def save(path: str | os.PathLike[str], tree: Any, metadata: dict[str, Any] | None = None) -> None:
    """Writes the arrays of `tree` (PRNG keys as their data) to a file, atomically.

    **Arguments:**

    - `path`: the path of the file; its folder is created if necessary.
    - `tree`: any PyTree.
    - `metadata`: a dictionary that JSON can represent, returned by [`load`][]. Default: empty.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = _key_data(eqx.filter(tree, eqx.is_array))
    body = io.BytesIO()
    eqx.tree_serialise_leaves(body, arrays)
    header = {"version": _VERSION, "leaves": _describe(arrays), "metadata": metadata or {}}
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(temporary, "wb") as file:
            file.write(_MAGIC + json.dumps(header).encode() + b"\n" + body.getvalue())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def load(path: str | os.PathLike[str], like: Any) -> tuple[Any, dict[str, Any]]:
    """Reads a file written by [`save`][].

    **Arguments:**

    - `path`: the path of the file.
    - `like`: a PyTree of the same structure as the saved one, whose arrays are replaced.

    **Returns:** the tree and the metadata.

    **Raises:** `ValueError` if the file is not a checkpoint, or holds another format version or another structure.
    """
    with open(path, "rb") as file:
        if file.readline() != _MAGIC:
            raise ValueError(f"{path} is not a flowrax checkpoint.")
        header = json.loads(file.readline())
        if header["version"] != _VERSION:
            raise ValueError(f"{path} has format {header['version']}; this flowrax reads format {_VERSION}.")
        arrays, static = eqx.partition(like, eqx.is_array)
        expected = _describe(_key_data(arrays))
        if header["leaves"] != expected:
            raise ValueError(f"{path} has another structure: {_first_difference(header['leaves'], expected)}.")
        read = eqx.tree_deserialise_leaves(file, _key_data(arrays))
    restored = jax.tree.map(_restore_key, read, arrays)
    return eqx.combine(restored, static), header["metadata"]


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _key_data(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jax.random.key_data(leaf) if _is_key(leaf) else leaf, tree)


def _restore_key(read: Any, like: Any) -> Any:
    return jax.random.wrap_key_data(read, impl=jax.random.key_impl(like)) if _is_key(like) else read


def _describe(arrays: Any) -> list[list[Any]]:
    leaves = jax.tree_util.tree_leaves_with_path(arrays)
    return [[jax.tree_util.keystr(path), list(leaf.shape), str(leaf.dtype)] for path, leaf in leaves]


def _first_difference(found: list[Any], expected: list[Any]) -> str:
    for one, other in zip(found, expected, strict=False):
        if one != other:
            return f"it has {one[0]} {one[1]} {one[2]} where {other[0]} {other[1]} {other[2]} is expected"
    return f"it has {len(found)} arrays where {len(expected)} are expected"
