"""Files are whole or absent, keep every bit, and are refused if they are damaged."""

import errno
import hashlib
import os
import signal
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowrax as frx
from flowrax._base import files
from flowrax._base.files import write_whole
from flowrax.train.checkpoint import read

KEY = jax.random.key(0)


def test_values_come_back_with_their_types_and_bits(tmp_path):
    tree = {
        "half": jnp.asarray([1.5, -2.0], jnp.bfloat16),
        "empty": jnp.zeros((0, 3)),
        "scalar": jnp.asarray(3, jnp.int8),
        "numpy": np.arange(6.0).reshape(2, 3).T,
        "keys": jax.random.split(KEY, 3),
        "nan": np.array([np.nan, np.inf, -0.0], np.float32),
        "flags": jnp.asarray([True, False]),
        "rest": ("kept", None, jnp.tanh),
    }
    frx.save(tmp_path / "a.frx", tree)
    zeros = {name: jnp.zeros_like(tree[name]) for name in ("half", "empty", "scalar", "flags")}
    zeros |= {name: np.zeros_like(tree[name]) for name in ("numpy", "nan")}
    got, _ = frx.load(tmp_path / "a.frx", {**tree, **zeros, "keys": jax.random.split(jax.random.key(1), 3)})
    for name in ("half", "empty", "scalar", "numpy", "nan", "flags"):
        assert type(got[name]) is type(tree[name]) and got[name].dtype == tree[name].dtype
        np.testing.assert_array_equal(np.asarray(got[name]), np.asarray(tree[name]))
    np.testing.assert_array_equal(jax.random.key_data(got["keys"]), jax.random.key_data(tree["keys"]))
    assert got["rest"] == tree["rest"] and np.signbit(got["nan"][2])
    got["numpy"][0, 0] = 7.0  # It can be written to.


def test_double_precision_survives_in_single_precision(tmp_path):
    with jax.enable_x64(True):
        tree = jnp.asarray([1 / 3])
    frx.save(tmp_path / "a.frx", tree)
    got, _ = frx.load(tmp_path / "a.frx", tree)
    assert got.dtype == np.float64 and np.asarray(got)[0] == 1 / 3


def small_file(path):
    frx.save(path, {"a": np.arange(3.0)}, {"step": 1})
    return path.read_bytes()


def refused(path, content, message=None):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        frx.load(path, {"a": np.zeros(3)})
    error = caught.value
    assert error.__cause__ is None and (error.__context__ is None or error.__suppress_context__)
    assert str(error).startswith(str(path)) and "\n" not in str(error)
    assert [entry.name for entry in caught.traceback if "flowrax" in str(entry.path)][-1] in ("read", "restore")


def test_no_file_with_one_changed_bit_loads(tmp_path):
    content = small_file(tmp_path / "a.frx")
    for bit in range(0, 8 * len(content), 11):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        refused(tmp_path / "b.frx", bytes(changed))


def test_no_truncated_or_prolonged_file_loads(tmp_path):
    content = small_file(tmp_path / "a.frx")
    for length in range(0, len(content), 5):
        refused(tmp_path / "b.frx", content[:length])
    refused(tmp_path / "b.frx", content[:-5], "damaged or truncated: it holds [0-9]+ bytes instead of")
    refused(tmp_path / "b.frx", b"", "is empty")
    refused(tmp_path / "b.frx", content + b"\n", "damaged or truncated")


def sealed(body, version=2):
    return (
        b"flowrax checkpoint\nformat %d sha256 %s bytes %d\n"
        % (
            version,
            hashlib.sha256(body).hexdigest().encode(),
            len(body),
        )
        + body
    )


def test_other_formats_and_forged_headers_are_refused(tmp_path):
    path = tmp_path / "a.frx"
    refused(path, b'flowrax checkpoint\n{"version": 1, "leaves": []}\n', "has format 1, without a digest; .* format 2")
    refused(path, sealed(b"{}\n", 3), "has format 3; this flowrax reads format 2")
    for body in (b"", b"{}\n", b"[1]\n", b"\x80\x04.\n", b'{"tree": 1, "run": 2, "versions": 3, "metadata": 4}\n'):
        refused(path, sealed(body), "has a header that this flowrax cannot read")
    content = small_file(path)
    body = content.split(b"\n", 2)[2]
    refused(path, sealed(body[:-8]), "fewer or more numbers")
    refused(path, sealed(body + bytes(8)), "fewer or more numbers")


def test_files_name_their_versions(tmp_path):
    small_file(tmp_path / "a.frx")
    assert (
        read(tmp_path / "a.frx").versions | {"flowrax": frx.__version__, "jax": jax.__version__}
        == read(tmp_path / "a.frx").versions
    )
    content = (tmp_path / "a.frx").read_bytes().split(b"\n", 2)[2]
    other = content.replace(f'"jax": "{jax.__version__}"'.encode(), b'"jax": "0.0.1"')
    (tmp_path / "b.frx").write_bytes(sealed(other))
    frx.load(tmp_path / "b.frx", {"a": np.zeros(3)})
    with pytest.raises(ValueError, match=r"The file was written with jax 0\.0\.1\."):
        frx.load(tmp_path / "b.frx", {"a": np.zeros(4)})


# Writing.


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_threads_that_save_to_one_path_leave_a_whole_file(tmp_path):
    path, errors = tmp_path / "a.frx", []

    def work(value):
        try:
            for _ in range(20):
                frx.save(path, {"a": np.full(2000, value)})
                got = frx.load(path, {"a": np.zeros(2000)})[0]["a"]
                assert np.all(got == got[0])
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(float(value),)) for value in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == [] and names(tmp_path) == ["a.frx"]


def test_a_writer_does_not_disturb_another_that_is_at_work(tmp_path):
    def chunks():
        yield b"one "
        write_whole(tmp_path / "a", [b"between"])
        assert (tmp_path / "a").read_bytes() == b"between"
        yield b"two"

    write_whole(tmp_path / "a", chunks())
    assert (tmp_path / "a").read_bytes() == b"one two" and names(tmp_path) == ["a"]


@pytest.mark.skipif(files.fcntl is None, reason="no file locks")
def test_what_a_killed_process_leaves_is_removed_by_the_next(tmp_path):
    """The child loads the one module alone, which is quick."""
    code = (
        "import importlib.util, os, signal, sys;"
        "spec = importlib.util.spec_from_file_location('files', sys.argv[1]);"
        "files = importlib.util.module_from_spec(spec); spec.loader.exec_module(files);"
        "kill = lambda: os.kill(os.getpid(), signal.SIGKILL);"
        "files.write_whole(sys.argv[2], (b'x' if i == 0 else kill() for i in range(2)))"
    )
    ran = subprocess.run([sys.executable, "-c", code, files.__file__, str(tmp_path / "a")], check=False)
    assert ran.returncode == -signal.SIGKILL
    (left,) = names(tmp_path)
    assert left.startswith(".a.") and left.endswith(".part")
    (tmp_path / ".b.0.part").write_bytes(b"of another file")
    write_whole(tmp_path / "a", [b"y"])
    assert names(tmp_path) == [".b.0.part", "a"]


def test_links_are_followed(tmp_path):
    (tmp_path / "far").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "far" / "a")
    for content in (b"first", b"second"):  # The link dangles at first.
        write_whole(link, [content])
        assert link.is_symlink() and (tmp_path / "far" / "a").read_bytes() == content
    assert names(tmp_path / "far") == ["a"]


def test_permissions_follow_the_umask_and_then_the_file(tmp_path):
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "a", [b"x"])
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640
    (tmp_path / "a").chmod(0o604)
    write_whole(tmp_path / "a", [b"y"])
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o604


def test_names_of_any_length_can_be_written(tmp_path):
    name = "é" * 127 + "a"  # 255 bytes, the longest name.
    write_whole(tmp_path / name, [b"x"])
    assert names(tmp_path) == [name]


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.frx"
    content = small_file(path)
    monkeypatch.setattr(os, "fsync", full)
    message = "a.frx could not be written: No space left on device; the file that was there before is unchanged"
    with pytest.raises(OSError, match=message) as caught:
        frx.save(path, {"a": np.ones(5)})
    assert caught.value.errno == errno.ENOSPC and caught.value.__suppress_context__
    assert path.read_bytes() == content and names(tmp_path) == ["a.frx"]
    with pytest.raises(OSError, match=r"b\.frx could not be written: No space left on device$"):
        frx.save(tmp_path / "b.frx", {"a": np.ones(5)})
    assert names(tmp_path) == ["a.frx"]


def test_what_is_not_a_file_is_not_replaced(tmp_path, monkeypatch):
    with pytest.raises(OSError, match="could not be written: It is not a regular file"):
        frx.save(tmp_path, {})
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match="could not be written: It is not a regular file"):
        frx.save(tmp_path / "fifo", {})
    (tmp_path / "a").write_bytes(b"x")
    with pytest.raises(OSError, match="could not be written: File exists|could not be written: Not a directory"):
        frx.save(tmp_path / "a" / "b.frx", {})
    monkeypatch.setattr(os, "access", lambda *_: False)  # Tests may run as root, who can write to any file.
    with pytest.raises(PermissionError, match="It is read-only; the file that was there before is unchanged"):
        frx.save(tmp_path / "a", {})
    assert names(tmp_path) == ["a", "fifo"] and (tmp_path / "a").read_bytes() == b"x"


def test_metadata_that_json_cannot_represent_leave_the_old_file(tmp_path):
    content = small_file(tmp_path / "a.frx")
    with pytest.raises(TypeError, match="metadata cannot be written as JSON: Object of type ndarray"):
        frx.save(tmp_path / "a.frx", {}, {"a": np.zeros(2)})
    assert (tmp_path / "a.frx").read_bytes() == content
