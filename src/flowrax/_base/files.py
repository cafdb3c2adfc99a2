"""Atomic writes: a temporary file in the same folder is written, flushed to the disk and renamed."""

import contextlib
import errno
import os
import pathlib
import secrets
import stat
from collections.abc import Iterable, Iterator
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows.
    fcntl = None

_SUFFIX = ".part"


def write_whole(path: str | os.PathLike[str], chunks: Iterable[bytes | memoryview]) -> None:
    """Replaces a file atomically; its folder is created if necessary.

    A reader sees the complete old or new file, also if several threads or processes write to one path. A symbolic link
    is kept, and the file that it points to is replaced. A new file has the permissions that the umask gives, and a
    replaced file keeps its permissions.

    Raises `OSError` if the file cannot be written; the old file then remains.
    """
    with _named_errors(path):
        target = _target(path)
        with _temporary(target) as (file, name):
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
            if os.name != "posix":
                file.close()
            os.replace(name, target)
        _sync_folder(target.parent)


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raises `OSError` if a file cannot be written: creates the folder and a temporary file, which it then removes."""
    with _named_errors(path), _temporary(_target(path)) as (file, _):
        file.write(b"\0")
        file.flush()


@contextlib.contextmanager
def _named_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        kept = "; the file that was there before is unchanged" if os.path.isfile(path) else ""
        raise OSError(error.errno, f"{os.fspath(path)} could not be written: {error.strerror}{kept}") from None


def _target(path: str | os.PathLike[str]) -> pathlib.Path:
    """The file to replace, after all symbolic links; its folder exists."""
    target = pathlib.Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        if not target.is_file():
            raise OSError(errno.EINVAL, "It is not a regular file")
        if not os.access(target, os.W_OK):
            raise OSError(errno.EACCES, "It is read-only")
    return target


@contextlib.contextmanager
def _temporary(target: pathlib.Path) -> Iterator[tuple[BinaryIO, pathlib.Path]]:
    """A new, locked file in the folder of `target`; it is removed at the end, unless it was renamed."""
    # A file name has at most 255 bytes.
    prefix = "." + target.name.encode()[:160].decode(errors="ignore") + "."
    _remove_abandoned(target.parent, prefix)
    while True:
        name = target.parent / f"{prefix}{secrets.token_hex(8)}{_SUFFIX}"
        # Unlike `tempfile`, this gives the file the permissions of the umask.
        file = os.fdopen(os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666), "w+b")
        _lock(file, wait=True)
        # Another process may have taken the file for an abandoned one before it was locked.
        if name.exists():
            break
        file.close()
    try:
        with file:
            # Not every file system has permissions.
            with contextlib.suppress(OSError):
                os.chmod(name, stat.S_IMODE(target.stat().st_mode))
            yield file, name
    finally:
        name.unlink(missing_ok=True)


def _remove_abandoned(folder: pathlib.Path, prefix: str) -> None:
    """Removes the temporary files of killed processes, which no longer hold a lock."""
    if fcntl is None:
        return
    with os.scandir(folder) as entries:
        names = [entry.path for entry in entries if entry.name.startswith(prefix) and entry.name.endswith(_SUFFIX)]
    for name in names:
        with contextlib.suppress(OSError), open(name, "rb+") as file:
            if _lock(file, wait=False):
                os.unlink(name)


def _lock(file: BinaryIO, *, wait: bool) -> bool:
    """Locks a file until it is closed; returns False if another process holds the lock or there are no locks."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True


def _sync_folder(folder: pathlib.Path) -> None:
    # Not every file system can flush a folder, and the file itself is already safe.
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
