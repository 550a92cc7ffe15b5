"""mini-qemu snapshot: what scripts and people see of a directory of snapshots."""

from __future__ import annotations

import json
import lzma
import os
import re
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest

from emulator import Machine

ROOT = Path(__file__).resolve().parent.parent
COMMAND = [sys.executable, "-m", "emulator", "snapshot"]
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two snapshots, and a file that has been cut short; for tests that only look."""
    directory = tmp_path_factory.mktemp("snapshots")
    with Machine("virt", ram="16M", icount=3, snapshots=directory) as machine:
        machine.write(0x8000_0000, b"hello")
        machine.savevm("first")
        machine.savevm("the second, with a rather long name")
    (directory / "short.snapshot").write_bytes((directory / "first.snapshot").read_bytes()[:1000])
    return directory


def snapshot(*args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *args],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def on_terminal(columns: int, *args: str) -> tuple[str, int | None]:
    """What a terminal shows, and the exit status."""
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    child = pexpect.spawn(
        COMMAND[0], [*COMMAND[1:], *args], cwd=str(ROOT), env=environment, timeout=30, dimensions=(24, columns)
    )
    try:
        child.expect(pexpect.EOF)
        shown: str = ESCAPES.sub("", child.before.decode()).replace("\r\n", "\n")
    finally:
        child.close(force=True)
    return shown, child.exitstatus


def test_piped_list_is_a_line_a_snapshot(kept: Path) -> None:
    done = snapshot("list", "-snapshots", str(kept))
    assert (done.returncode, done.stderr) == (0, "")
    header, *lines = done.stdout.splitlines()
    assert re.split(" {2,}", header) == ["TAG", "DATE", "VM CLOCK", "ON DISK", "RAM", "ICOUNT"]
    assert [re.split(" {2,}", line)[0] for line in lines] == ["first", "the second, with a rather long name", "short"]
    date = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
    assert re.fullmatch(rf"first +{date}  00:00:00.000  \d+ KiB   16 MiB  0", lines[0])
    assert re.fullmatch(r"short +damaged: stream at byte 0x3e8: expected a description of itself at .*", lines[2])


def test_piped_list_of_nothing_is_nothing(tmp_path: Path) -> None:
    for done in snapshot("list", "--snapshots", str(tmp_path)), snapshot("list", XDG_STATE_HOME=str(tmp_path)):
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("command", ["list", "verify", "delete"])
def test_directory_that_is_asked_for_and_not_there_is_an_error(tmp_path: Path, command: str) -> None:
    nowhere = str(tmp_path / "nowhere")
    done = snapshot(command, "-snapshots", nowhere, *["a"] * (command == "delete"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"mini-qemu: cannot read '{nowhere}': No such file or directory\n"


def test_unknown_machine_is_refused_as_by_run() -> None:
    done = snapshot("list", "-M", "other")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "mini-qemu: unsupported machine type 'other': use one of virt, virt-10.0, virt-7.2\n"


@pytest.mark.parametrize("flag", ["--json", "-json"])
def test_list_for_scripts(kept: Path, flag: str) -> None:
    first, second, short = json.loads(snapshot("list", "-snapshots", str(kept), flag).stdout)
    assert (first["tag"], first["path"]) == ("first", str(kept / "first.snapshot"))
    assert (first["machine"], first["ram_size"], first["icount"], first["virtual_clock"]) == ("virt", 16 << 20, 0, 0)
    assert (first["damaged"], second["damaged"]) == (None, None)
    assert first["taken"] < second["taken"]
    assert short == {
        "tag": "short",
        "damaged": "stream at byte 0x3e8: expected a description of itself at the stream's end, got none",
    }


@pytest.mark.parametrize("columns", [200, 80, 40, 20])
def test_list_fits_the_terminal_and_leaves_no_tag_out(kept: Path, columns: int) -> None:
    shown, status = on_terminal(columns, "list", "-snapshots", str(kept))
    assert status == 0
    assert max(map(len, shown.splitlines())) <= columns
    assert re.search(r"^first\b", shown, re.MULTILINE)
    assert re.search(r"^short +damaged +$", shown, re.MULTILINE) or columns == 20
    assert "short: stream at byte 0x3e8: expected a description of itself" in " ".join(shown.split())
    assert ("RAM" in shown) == (columns >= 80)


def test_terminal_is_told_that_there_is_nothing(tmp_path: Path) -> None:
    assert on_terminal(200, "list", "-snapshots", str(tmp_path))[0] == f"There is no snapshot in {tmp_path}.\n"


def test_verify_has_a_line_for_each_and_fails_if_one_is_damaged(kept: Path) -> None:
    done = snapshot("verify", "-snapshots", str(kept))
    assert (done.returncode, done.stderr) == (1, "")
    first, short, second = done.stdout.splitlines()
    assert (first, second) == ("first: ok", "the second, with a rather long name: ok")
    assert short.startswith("short: damaged: ")


def test_verify_reads_what_it_is_asked_to(kept: Path) -> None:
    done = snapshot("verify", "-snapshots", str(kept), "first")
    assert (done.returncode, done.stdout) == (0, "first: ok\n")
    done = snapshot("verify", "-snapshots", str(kept), "fist", "first")
    assert done.returncode == 1
    assert done.stdout == f"fist: there is no snapshot 'fist' in '{kept}' (did you mean 'first'?)\nfirst: ok\n"


def test_verify_on_a_terminal_says_the_same(kept: Path) -> None:
    shown, status = on_terminal(60, "verify", "-snapshots", str(kept), "first", "short")
    assert status == 1
    assert "first: ok\n" in shown
    assert "short: damaged: " in shown


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("virt-10.0-mapped", "'{path}' has no note and no checksums: it is not as savevm wrote it"),
        ("virt-7.2", "not a snapshot: its RAM is not in the mapped layout"),
    ],
)
def test_streams_of_qemus_are_foreign_and_not_damaged(tmp_path: Path, name: str, reason: str) -> None:
    path = tmp_path / "a.snapshot"
    path.write_bytes(lzma.decompress((ROOT / f"tests/data/streams/{name}.stream.xz").read_bytes()))
    reason = reason.format(path=path)
    listed = snapshot("list", "-snapshots", str(tmp_path))
    assert (listed.returncode, listed.stdout.splitlines()[1:]) == (0, [f"a    foreign: {reason}"])
    assert json.loads(snapshot("list", "-snapshots", str(tmp_path), "--json").stdout) == [
        {"tag": "a", "foreign": reason}
    ]
    verified = snapshot("verify", "-snapshots", str(tmp_path))
    assert (verified.returncode, verified.stdout) == (1, f"a: foreign: {reason}\n")
    shown, _status = on_terminal(200, "list", "-snapshots", str(tmp_path))
    assert re.search(r"^a +foreign\b", shown, re.MULTILINE)
    assert f"a: {reason}" in shown


def test_delete_deletes_all_that_it_can(tmp_path: Path) -> None:
    for tag in "abc":
        (tmp_path / f"{tag}.snapshot").touch()
    done = snapshot("delete", "-snapshots", str(tmp_path), "a", "x", "c")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"mini-qemu: there is no snapshot 'x' in '{tmp_path}'\n"
    assert [path.name for path in tmp_path.iterdir()] == ["b.snapshot"]
    assert snapshot("delete", "-snapshots", str(tmp_path), "b").returncode == 0


def test_default_is_the_users_directory_of_the_machine(kept: Path, tmp_path: Path) -> None:
    (tmp_path / "mini-qemu" / "snapshots").mkdir(parents=True)
    (tmp_path / "mini-qemu" / "snapshots" / "virt").symlink_to(kept)
    assert "first" in snapshot("list", XDG_STATE_HOME=str(tmp_path)).stdout
    assert "first" in snapshot("list", "-M", "virt,acpi=off", XDG_STATE_HOME=str(tmp_path)).stdout
    assert snapshot("list", "-M", "virt-7.2", XDG_STATE_HOME=str(tmp_path)).stdout == ""


def test_letters_that_the_output_cannot_show_are_escaped(tmp_path: Path) -> None:
    (tmp_path / "%C3%A9.snapshot").touch()
    for args in (["list"], ["verify"]):
        done = snapshot(*args, "-snapshots", str(tmp_path), PYTHONIOENCODING="ascii")
        assert done.stderr == ""
        assert re.search(r"^\\xe9\b.*damaged", done.stdout, re.MULTILINE)


def test_list_for_a_full_disk_is_one_line_and_status_1(kept: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*COMMAND, "list", "-snapshots", str(kept)],
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, "mini-qemu: standard output: No space left on device\n")
