"""One file per checkpoint: three lines of text, then the bytes of the arrays in the order of the PyTree.

    flowrax checkpoint
    format 2 sha256 DIGEST bytes SIZE
    {"tree": {PATH: TEXT, ...}, "run": ..., "versions": ..., "metadata": ...}

Digest and size refer to everything below the second line. `tree` describes the saved object: its classes, static
fields, functions, and the dtypes and shapes of its arrays. Loading runs no code from the file: the object comes from
`like`, whose description must be the same.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import re
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._base.arguments import check_path, checked
from .._base.describe import Description, describe, differences, is_stored, raw, versions
from .._base.files import write_whole

_MAGIC = b"flowrax checkpoint\n"
_FORMAT = 2
_SEAL = re.compile(rb"format (\d{1,9}) sha256 ([0-9a-f]{64}) bytes (\d{1,19})\n")
_SHOWN = 4
_WIDTH = 90


@checked
def save(path: str | os.PathLike[str], tree: Any, metadata: dict[str, Any] | None = None) -> None:
    """Writes the arrays of `tree` (PRNG keys as their data) and a description of everything else to a file, atomically.

    A symbolic link is followed. Several threads or processes may save to the same path: the file is always whole.

    **Arguments:**

    - `path`: the path of the file; its folder is created if necessary.
    - `tree`: any PyTree.
    - `metadata`: a dictionary that JSON can represent, returned by [`load`][]. Default: empty.

    **Raises:** `OSError` if the file cannot be written, which leaves an earlier file unchanged.
    """
    write(path, tree, {} if metadata is None else metadata)


@checked
def load(path: str | os.PathLike[str], like: Any) -> tuple[Any, dict[str, Any]]:
    """Reads a file written by [`save`][].

    **Arguments:**

    - `path`: the path of the file.
    - `like`: a PyTree made in the same way as the saved one, whose arrays are replaced.

    **Returns:** the tree and the metadata.

    **Raises:** `ValueError` if the file is not a checkpoint, is damaged or truncated, has another format version, or
    was written for another object: other classes, static fields, functions, shapes or dtypes. The message names the
    first differences. Functions are compared by name, lambdas and local functions by their code.
    """
    checkpoint = read(path)
    return checkpoint.restore(like), checkpoint.metadata


def write(path: str | os.PathLike[str], tree: Any, metadata: dict[str, Any], run: Description | None = None) -> None:
    """[`save`][] for a training run, whose arguments are described by `run`."""
    check_path("path", path)
    if any(isinstance(leaf, np.ma.MaskedArray) for leaf in jax.tree.leaves(tree)):
        raise ValueError("A masked array cannot be saved, since its mask would be lost; fill it first.")
    described = describe(tree)
    header = {"tree": described, "run": run, "versions": versions(described, run or {}), "metadata": metadata}
    stored = jax.tree.leaves(eqx.filter(tree, is_stored))
    try:
        text = json.dumps(header)
    except (TypeError, ValueError) as error:
        raise TypeError(f"metadata cannot be written as JSON: {error}.") from None
    body = [text.encode() + b"\n", *(raw(leaf) for leaf in stored)]
    digest, size = hashlib.sha256(), 0
    for chunk in body:
        digest.update(chunk)
        size += len(chunk)
    seal = f"format {_FORMAT} sha256 {digest.hexdigest()} bytes {size}\n".encode()
    write_whole(path, [_MAGIC, seal, *body])


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The content of one file with a correct digest."""

    path: pathlib.Path
    tree: Description
    run: Description | None
    versions: dict[str, str]
    metadata: dict[str, Any]
    arrays: bytes = dataclasses.field(repr=False)

    def restore(self, like: Any, name: str = "`like`") -> Any:
        """The saved object; raises `ValueError` if `like`, called `name` in the message, was made in another way."""
        if different := self.differences(self.tree, describe(like), name):
            raise ValueError(f"{self.path} does not match {name}: {different}")
        stored, rest = eqx.partition(like, is_stored)
        leaves, structure = jax.tree.flatten(stored)
        parts = [jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf for leaf in leaves]
        stops = np.cumsum([0, *(part.size * np.dtype(part.dtype).itemsize for part in parts)]).tolist()
        if stops[-1] != len(self.arrays):
            raise ValueError(f"{self.path} holds fewer or more numbers than its header announces.")
        read = []
        for leaf, part, start, stop in zip(leaves, parts, stops, stops[1:], strict=False):
            numbers = np.frombuffer(self.arrays[start:stop], part.dtype).reshape(part.shape)
            read.append(_like(numbers, leaf))
        return eqx.combine(jax.tree.unflatten(structure, read), rest)

    def differences(self, saved: Description, expected: Description, name: str) -> str:
        """The first differences of two descriptions in words; empty if there are none."""
        here = versions(expected)
        found = differences(saved, expected, self.versions, here)
        if not found:
            return ""
        listed = [_sentence(*difference, name) for difference in found[:_SHOWN]]
        if len(found) > _SHOWN:
            listed.append(f"and {len(found) - _SHOWN} more")
        changed = [f"{k} {v}" for k, v in self.versions.items() if here.get(k, v) != v]
        hint = f" The file was written with {', '.join(changed)}." if changed else ""
        if any(path.endswith(".frequencies") for path, *_ in found):
            hint += " Frozen time frequencies are drawn from the key of the network: use the key of the saved one."
        return f"{'; '.join(listed)}.{hint}"


def read(path: str | os.PathLike[str]) -> Checkpoint:
    """Reads a file and verifies its digest; raises `ValueError` for anything but a whole checkpoint."""
    check_path("path", path)
    with open(path, "rb") as file:
        if (magic := file.readline(len(_MAGIC))) != _MAGIC:
            what = "is empty" if not magic else "is not a flowrax checkpoint"
            raise ValueError(f"{path} {what}.")
        first = file.readline(200)
        if first.startswith(b"{"):
            raise ValueError(f"{path} has format 1, without a digest; this flowrax reads format {_FORMAT}.")
        if (seal := _SEAL.fullmatch(first)) is None:
            raise ValueError(f"{path} is damaged or truncated: its second line has no digest.")
        if int(seal[1]) != _FORMAT:
            raise ValueError(f"{path} has format {int(seal[1])}; this flowrax reads format {_FORMAT}.")
        content = file.read()
    if len(content) != int(seal[3]):
        raise ValueError(f"{path} is damaged or truncated: it holds {len(content)} bytes instead of {int(seal[3])}.")
    if hashlib.sha256(content).hexdigest().encode() != seal[2]:
        raise ValueError(f"{path} is damaged: its content does not have the digest that was written.")
    header, _, arrays = content.partition(b"\n")
    try:
        fields = json.loads(header)
        run = fields["run"] if fields["run"] is None else dict(fields["run"])
        tree, versions, metadata = (dict(fields[name]) for name in ("tree", "versions", "metadata"))
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} has a header that this flowrax cannot read.") from None
    return Checkpoint(pathlib.Path(path), tree, run, versions, metadata, arrays)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _like(numbers: np.ndarray, like: Any) -> Any:
    if isinstance(like, np.ndarray):
        return numbers.copy()
    if _is_key(like):
        return jax.random.wrap_key_data(jnp.array(numbers), impl=jax.random.key_impl(like))
    # Arrays in double precision may exist although new arrays have single precision.
    with jax.enable_x64(True):
        return jnp.array(numbers)


def _sentence(path: str, saved: str | None, expected: str | None, name: str) -> str:
    where = path or "the whole"
    if saved is None:
        return f"{where} is {_shown(expected)} in {name} and absent from the file"
    if expected is None:
        return f"{where} is {_shown(saved)} in the file and absent from {name}"
    return f"{where} is {_shown(saved)} in the file and {_shown(expected)} in {name}"


def _shown(text: str | None) -> str:
    text = re.sub(r"^([\w.]+):(?=[\w.<>]+$)", r"\1.", text or "")
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 3]}..."
