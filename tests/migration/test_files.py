"""A file that takes another's place only as a whole, and one that is read by mapping it."""

from __future__ import annotations

import fcntl
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from emulator.core.errors import FileError
from emulator.migration import files
from emulator.migration.files import SUFFIX, locked, mapped, replacing


class SomethingElseError(Exception):
    """Whatever goes wrong while somebody writes."""


def fail_after(_done: object, error: BaseException) -> None:
    raise error


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def leftover(directory: Path, name: str = "x") -> Path:
    path = directory / f".{name}.0123{SUFFIX}"
    path.write_bytes(b"half")
    return path


def test_new_file_is_there_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with replacing(path) as file:
        file.write(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["file"]


def test_old_file_is_complete_until_the_new_one_is(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with path.open("rb") as reader:
        with replacing(path) as file:
            file.write(b"newer")
            file.flush()
            assert path.read_bytes() == b"old"
        assert path.read_bytes() == b"newer"
        assert reader.read() == b"old"


@pytest.mark.parametrize("error", [SomethingElseError(), KeyboardInterrupt()])
def test_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(type(error)), replacing(path) as file:
        fail_after(file.write(b"new"), error)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_what_goes_wrong_with_the_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(FileError, match=rf"^cannot write '{path}': No space left on device$"), replacing(path):
        raise OSError(28, os.strerror(28))
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "why"),
    [("nowhere/file", "No such file or directory"), ("plain/file", "Not a directory"), (".", "Is a directory")],
)
def test_path_where_no_file_can_be_is_refused(tmp_path: Path, name: str, why: str) -> None:
    (tmp_path / "plain").touch()
    with pytest.raises(FileError, match=why), replacing(tmp_path / name):
        pytest.fail("it was opened")


def test_new_file_has_the_rights_that_the_user_gives_to_files(tmp_path: Path) -> None:
    script = (
        "import os, pathlib, sys; from emulator.migration.files import replacing\n"
        "os.umask(0o027)\n"
        "with replacing(pathlib.Path(sys.argv[1])): pass"
    )
    path = tmp_path / "file"
    subprocess.run([sys.executable, "-c", script, path], check=True, timeout=60)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize("name", ["x" * 255, "\N{CJK UNIFIED IDEOGRAPH-6A5F}" * 85])
def test_name_may_be_as_long_as_the_file_system_lets_it(tmp_path: Path, name: str) -> None:
    with replacing(tmp_path / name) as file:
        file.write(b"new")
    assert (tmp_path / name).read_bytes() == b"new"


def test_pipe_is_written_to_and_stays_a_pipe(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(path.read_bytes()))
    reader.start()
    with replacing(path) as file:
        file.write(b"stream")
    reader.join(timeout=20)
    assert got == [b"stream"]
    assert path.is_fifo()


# What processes that were killed have left


def test_leftovers_go_away_when_something_is_written(tmp_path: Path) -> None:
    leftover(tmp_path, "a")
    leftover(tmp_path, "b")
    with replacing(tmp_path / "file"):
        pass
    assert names(tmp_path) == ["file"]


def test_files_being_written_and_files_of_others_are_no_leftovers(tmp_path: Path) -> None:
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    others = [tmp_path / ".vimrc.tmp", tmp_path / f"visible{SUFFIX}"]
    for other in others:
        other.write_text("precious")
    with replacing(mine) as first:
        with replacing(theirs) as second:
            second.write(b"2")
        first.write(b"1")
    assert (mine.read_bytes(), theirs.read_bytes()) == (b"1", b"2")
    assert [other.read_text() for other in others] == ["precious"] * 2


def test_leftover_that_cannot_be_removed_is_nobodys_problem(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / f".pipe{SUFFIX}")
    (tmp_path / f".directory{SUFFIX}").mkdir()
    with replacing(tmp_path / "file") as file:
        file.write(b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


def test_file_taken_for_a_leftover_before_it_was_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, stolen = fcntl.flock, []

    def steal_first(file: object, operation: int) -> None:
        if not stolen and operation == fcntl.LOCK_EX:
            stolen.extend(tmp_path.glob(f".*{SUFFIX}"))
            stolen[0].unlink()
        lock(file, operation)  # type: ignore[arg-type]

    monkeypatch.setattr(files.fcntl, "flock", steal_first)
    with replacing(tmp_path / "file") as file:
        file.write(b"new")
    assert len(stolen) == 1
    assert (tmp_path / "file").read_bytes() == b"new"
    assert names(tmp_path) == ["file"]


# One at a time


def test_lock_lets_one_in_at_a_time(tmp_path: Path) -> None:
    inside, most, guard = 0, 0, threading.Lock()

    def enter() -> None:
        nonlocal inside, most
        for _ in range(50):
            with locked(tmp_path):
                with guard:
                    inside += 1
                    most = max(most, inside)
                os.sched_yield()
                with guard:
                    inside -= 1

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert (inside, most) == (0, 1)


def test_lock_needs_a_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="Not a directory"), locked(tmp_path / "file"):
        pytest.fail("it was locked")


# Reading


def test_mapped_file_is_its_content_and_a_descriptor(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    with mapped(path) as (data, fd):
        assert bytes(data) == b"content"
        assert os.fstat(fd).st_size == 7


def test_empty_file_can_be_mapped(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with mapped(tmp_path / "file") as (data, _fd):
        assert len(data) == 0


def test_what_goes_wrong_with_another_file_is_not_blamed_on_the_mapped_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    with pytest.raises(BrokenPipeError), mapped(tmp_path / "file"):
        raise BrokenPipeError


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, why in (("pipe", "not a regular file"), ("nowhere", "No such file"), (".", "Is a directory")):
        with pytest.raises(FileError, match=why), mapped(tmp_path / name):
            pytest.fail("it was mapped")
