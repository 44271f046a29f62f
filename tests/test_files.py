"""Atomic files: whole or not there, whatever interrupts the writer."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tutelage.files import atomic_file, atomic_folder, atomic_path, read_object, temporary_name, write_atomic


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, interruption):
    path = tmp_path / "new" / "file"
    write_atomic(path, b"old")

    def write():
        with atomic_file(path) as file:
            file.write(b"half")
            raise interruption

    with pytest.raises(interruption):
        write()
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    write_atomic(path, b"old")
    with pytest.raises(TypeError):
        write_atomic(path, "not bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"


def test_a_path_that_nobody_wrote_is_not_made(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "file"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_reader_sees_the_old_file_until_the_block_ends(tmp_path):
    path = tmp_path / "file"
    write_atomic(path, b"old")
    with atomic_file(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


def test_a_killed_writer_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    write_atomic(path, b"old")
    code = (
        "import os, signal, sys; from pathlib import Path; from tutelage.files import atomic_file\n"
        "with atomic_file(Path(sys.argv[1])) as file:\n"
        "    file.write(b'half'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)]).returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    assert [p.suffix for p in tmp_path.iterdir() if p != path] == [".tmp"]


def test_a_file_is_flushed_before_it_has_its_name_and_its_folder_afterwards(tmp_path, monkeypatch):
    """So that a power cut leaves the old file or the new one, whole."""
    path, seen = tmp_path / "file", []
    write_atomic(path, b"old")

    def flush(descriptor: int) -> None:
        flushed = os.readlink(f"/proc/self/fd/{descriptor}")
        seen.append((Path(flushed).is_dir(), path.read_bytes()))

    monkeypatch.setattr(os, "fsync", flush)
    write_atomic(path, b"new")
    assert seen == [(False, b"old"), (True, b"new")]


def test_the_temporary_name_is_hidden_beside_the_file(tmp_path):
    name = temporary_name(tmp_path / "file")
    assert name.parent == tmp_path
    assert name.name.startswith(".file.")
    assert name.suffix == ".tmp"


def test_folders_that_were_made_for_a_failed_write_go_again(tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(TypeError), atomic_file(tmp_path / "there" / "new" / "deep" / "file") as file:
        file.write("no bytes")
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]


def test_errors_name_what_the_user_named(tmp_path):
    with pytest.raises(IsADirectoryError) as caught:
        write_atomic(tmp_path, b"new")
    assert caught.value.filename == str(tmp_path)
    name = tmp_path / ("x" * 250)  # the temporary name beside it is too long
    with pytest.raises(OSError, match="too long") as longer:
        write_atomic(name, b"new")
    assert longer.value.filename == str(name)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    out = tmp_path / "new" / "model"

    def write_half():
        with atomic_folder(out) as temporary:
            (temporary / "a").write_text("half")
            raise ValueError

    with pytest.raises(ValueError):
        write_half()
    assert not list(tmp_path.iterdir())
    out.mkdir(parents=True)  # an empty folder may be there
    with atomic_folder(out) as temporary:
        (temporary / "a").write_text("whole")
        assert not any(out.iterdir())
    assert [path.name for path in out.rglob("*")] == ["a"]
    with pytest.raises(OSError), atomic_folder(out):  # a full one stays, unless something clears it
        pass
    with atomic_folder(out, clear=shutil.rmtree) as temporary:
        (temporary / "b").write_text("other")
    assert [path.name for path in tmp_path.rglob("*")] == ["new", "model", "b"]


def test_a_byte_order_mark_before_an_object_is_passed_over(tmp_path):
    (tmp_path / "config.json").write_bytes('\ufeff{"a": "中"}'.encode())
    assert read_object(tmp_path / "config.json") == {"a": "中"}
