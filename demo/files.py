"""Atomic writes: a temporary file in the same folder is written, flushed to the disk and renamed."""

import io
import os
import pathlib
import tempfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import matplotlib.figure


def write_bytes(path: pathlib.Path, content: bytes) -> None:
    """Replaces `path` atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # Temporary files are readable by their owner only; the final file follows the user's umask.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except BaseException:
        pathlib.Path(temporary).unlink(missing_ok=True)
        raise


def write_text(path: pathlib.Path, content: str) -> None:
    """Writes text in UTF-8 atomically."""
    write_bytes(path, content.encode())


def write_figure(path: pathlib.Path, figure: "matplotlib.figure.Figure") -> None:
    """Writes the figure as PNG atomically."""
    content = io.BytesIO()
    figure.savefig(content, format="png")
    write_bytes(path, content.getvalue())
