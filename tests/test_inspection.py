"""`mini-qemu inspect`: text, JSON, differences, errors, on QEMU's streams and on our own."""

from __future__ import annotations

import contextlib
import json
import lzma
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pexpect
import pytest

from emulator import Machine, Serial
from emulator.core.errors import FileError
from emulator.inspection import DIFFERENT, diff_files, inspect_file
from emulator.migration.format import (
    Configuration,
    Heading,
    Mark,
    find_description,
    put_end,
    put_footer,
    put_header,
    put_heading,
)
from emulator.migration.wire import Writer

ROOT = Path(__file__).resolve().parents[1]
STREAMS = ROOT / "tests" / "data" / "streams"
COMMAND = [sys.executable, "-m", "emulator", "inspect"]
HOLE = 1 << 20


def unpack(name: str, path: Path) -> Path:
    """A packed stream as a file, with holes where there is nothing."""
    data = lzma.decompress((STREAMS / f"{name}.stream.xz").read_bytes())
    with path.open("wb") as file:
        for begin in range(0, len(data), HOLE):
            piece = data[begin : begin + HOLE]
            if piece.count(0) != len(piece):
                file.seek(begin)
                file.write(piece)
        file.truncate(len(data))
    return path


@pytest.fixture(scope="module")
def streams(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("streams")
    for name in ("virt-7.2", "virt-10.0", "virt-10.0-mapped"):
        unpack(name, directory / name)
    return directory


@pytest.fixture(scope="module")
def toy() -> Iterator[Machine]:
    with Machine("virt", ram="16M", kernel=ROOT / "firmware/prebuilt/toy.elf") as machine:
        machine.run(until=Serial("toy> "), timeout=20)
        yield machine


Show = Callable[..., str]


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]) -> Show:
    def show(path: Path, *, verbose: bool = False) -> str:
        assert inspect_file(path, as_json=False, verbose=verbose) == 0
        return capsys.readouterr().out

    return show


@pytest.fixture
def parsed(capsys: pytest.CaptureFixture[str]) -> Callable[[Path], Any]:
    def parse(path: Path) -> Any:
        assert inspect_file(path, as_json=True, verbose=False) == 0
        return json.loads(capsys.readouterr().out)

    return parse


def mini_qemu(*args: str | Path) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, *map(str, args)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def tiny(
    path: Path, payload: bytes, fields: list[dict[str, Any]], name: str = "dev", subsections: Any = (), **keys: Any
) -> Path:
    """A stream with one section and no RAM."""
    writer = Writer()
    put_header(writer, Configuration.of("virt"))
    put_heading(writer, Heading(Mark.FULL, 7, name, 0, 1))
    writer.write(payload)
    put_footer(writer, 7)
    section = {"name": name, "instance_id": 0, "version": 1, "fields": fields, "subsections": subsections}
    put_end(writer, json.dumps({"devices": [section], **keys}).encode())
    path.write_bytes(writer.data)
    return path


def field(name: str, kind: str, size: int, **more: Any) -> dict[str, Any]:
    return {"name": name, "type": kind, "size": size, **more}


# Text


def test_sections_fields_and_ram_are_shown(streams: Path, shown: Show) -> None:
    lines = shown(streams / "virt-7.2").splitlines()
    assert lines[:4] == [
        f"{streams / 'virt-7.2'}: 213165 bytes",
        "machine virt",
        "",
        "ram  version 4, 201075 bytes at 0x11 in 3 parts",
    ]
    assert "  riscv_virt_board.ram  16 MiB, 4096 pages: 3 data, 4093 zero, 0 absent" in lines
    assert f"    [+{'.' * 55}+{'.' * 7}] 49170 bytes" in lines
    assert f"    [#{'.' * 14}] 4252 bytes" in lines
    assert "cpu  version 5, 2774 bytes at 0x311d9" in lines
    words = [line.split() for line in lines]
    assert ["env.pc", "uint64", "0x80000054"] in words
    assert ["env.fpr", "uint64[32]", "0x0", "x32"] in words
    assert ["env.pmu_ctrs[0..31].started", "bool", "false"] in words
    assert "  cpu/pmp  subsection, version 1" in lines
    assert ["env.pmp_state.pmp[0..15].addr_reg", "uint64", "0x0"] in words
    assert ["cpu_clock_offset", "int64", "963391786"] in words
    assert "pflash_cfi01[1]  version 1, 42 bytes at 0x320cf" in lines
    assert lines[-1] == '  runstate buffer "running" (100 bytes)'


def test_absent_pages_are_blank(streams: Path, shown: Show) -> None:
    lines = shown(streams / "virt-10.0-mapped").splitlines()
    assert "capabilities mapped-ram" in lines
    assert f"    [+{' ' * 55}+{' ' * 7}] 12288 bytes" in lines


def test_verbose_lists_ranges_and_cuts_nothing(streams: Path, shown: Show) -> None:
    brief, verbose = (shown(streams / "virt-7.2", verbose=verbose) for verbose in (False, True))
    assert "    0xe00000-0xe01fff data\n    0xe02000-0xffffff zero\n" in verbose
    assert " ... (256 bytes)" in brief
    assert " ... (" not in verbose
    assert "0xe00000" not in brief


def test_a_snapshot_shows_its_note(toy: Machine, tmp_path: Path, shown: Show, parsed: Callable[[Path], Any]) -> None:
    path = tmp_path / "toy.snapshot"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toy, "_snapshots", tmp_path)
        toy.savevm("toy")
    lines = shown(path).splitlines()
    assert "mini-qemu tag toy" in lines
    assert any(line.startswith("mini-qemu taken 20") for line in lines)
    assert any(line.startswith("mini-qemu blocks riscv_virt_board.ram ") for line in lines)
    document = parsed(path)
    assert document["mini-qemu"]["tag"] == "toy"
    assert document["configuration"]["capabilities"] == ["mapped-ram"]


def test_values_look_like_their_types(tmp_path: Path, shown: Show) -> None:
    fields = [
        field("signed", "int16", 2),
        field("unsigned", "uint16", 2),
        field("deadline", "timer", 8),
        field("flag", "bool", 1),
        field("text", "buffer", 8),
        field("raw", "buffer", 2),
        field("none", "buffer", 0),
        field("items", "uint8", 1, array_len=4),
        field("one", "uint8", 1, index=0),
        field("one", "uint8", 1, index=1),
        field("pair", "struct", 1, array_len=2, struct={"fields": [field("x", "uint8", 1)]}),
    ]
    payload = b"\xff\xfe" * 2 + b"\xff" * 8 + b"\1" + b"paused\0\0" + b"\0\1" + b"\1\1\1\2" + b"\5\6" + b"\7\x08"
    words = [line.split() for line in shown(tiny(tmp_path / "s", payload, fields)).splitlines()[4:]]
    assert words == [
        ["signed", "int16", "-2"],
        ["unsigned", "uint16", "0xfffe"],
        ["deadline", "timer", "-1"],
        ["flag", "bool", "true"],
        ["text", "buffer", '"paused"', "(8", "bytes)"],
        ["raw", "buffer", "00", "01"],
        ["none", "buffer", "zeros", "(0", "bytes)"],
        ["items", "uint8[4]", "0x1", "x3,", "0x2"],
        ["one[0]", "uint8", "0x5"],
        ["one[1]", "uint8", "0x6"],
        ["pair[0].x", "uint8", "0x7"],
        ["pair[1].x", "uint8", "0x8"],
    ]


def test_terminals_are_not_controlled_by_what_a_stream_says(tmp_path: Path, shown: Show) -> None:
    evil = "\x1b[2J\n\r\x07"
    fields = [field(evil, evil, 4), field("[bold]markup", "buffer", 4)]
    path = tiny(tmp_path / "s", b"\x1b[2J" * 2, fields, name=evil, note={evil: evil})
    said = shown(path, verbose=True)
    assert all(line.isprintable() for line in said.splitlines())
    assert r"\x1b[2J\n\r\x07" in said
    assert "[bold]markup" in said


def test_a_stream_without_description_says_so(streams: Path, tmp_path: Path, shown: Show) -> None:
    path = tmp_path / "bare"
    data = (streams / "virt-7.2").read_bytes()
    path.write_bytes(data[: find_description(memoryview(data))[0]])
    lines = shown(path).splitlines()
    assert "cpu  version 5, 2774 bytes at 0x311d9" in lines
    assert "  2752 bytes without description" in lines
    assert lines[-1] == "no description of itself to read fields by: sections and RAM only"


def test_lines_are_wrapped_on_a_terminal_only(streams: Path, shown: Show) -> None:
    path = streams / "virt-7.2"
    assert max(map(len, shown(path).splitlines())) > 200
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "90", "LINES": "24"}
    child = pexpect.spawn(COMMAND[0], [*COMMAND[1:], str(path)], cwd=str(ROOT), env=environment, dimensions=(24, 90))
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    output = (child.before or b"").decode()
    assert "\x1b[" in output
    lines = re.sub(r"\x1b\[[0-9;]*m", "", output).split("\r\n")
    assert max(len(line) for line in lines if not line.startswith(str(path))) <= 90


# JSON


def test_json_has_everything(streams: Path, parsed: Callable[[Path], Any]) -> None:
    document = parsed(streams / "virt-7.2")
    assert document["configuration"] == {"machine": "virt", "target_page_bits": None, "capabilities": [], "uuid": None}
    assert document["size"] == 213165
    assert document["error"] is None
    assert document["description_size"] == 7921
    ram = {block["name"]: block for block in document["ram"]}["riscv_virt_board.ram"]
    assert ram == {
        "name": "riscv_virt_board.ram",
        "size": 16 << 20,
        "pages": {"data": 3, "zero": 4093, "absent": 0},
        "sent": {"data": 3, "zero": 4093},
        "stream_bytes": 49170,
        "ranges": {
            "data": [[0, 0x1000], [0xE00000, 0xE02000]],
            "zero": [[0x1000, 0xE00000], [0xE02000, 0x1000000]],
        },
    }
    sections = {section["name"]: section for section in document["sections"]}
    assert sections["ram"]["fields"] is None
    assert sections["ram"]["parts"] == 3
    assert sections["cpu"]["fields"]["env.pc"] == 0x80000054
    assert sections["globalstate"] == {
        "name": "globalstate",
        "instance_id": 0,
        "version_id": 1,
        "section_id": 16,
        "offset": 205104,
        "size": 134,
        "parts": 1,
        "fields": {"size": 8, "runstate": b"running".ljust(100, b"\0").hex()},
    }


def test_json_of_what_json_cannot_say(tmp_path: Path, parsed: Callable[[Path], Any]) -> None:
    path = tiny(tmp_path / "s", b"\x7f\xf0" + bytes(6), [field("f", "CPU_Double_U", 8)])
    assert parsed(path)["sections"][0]["fields"] == {"f": "inf"}


# Differences


def differ(*paths: Path, as_json: bool = False, verbose: bool = False) -> int:
    return diff_files(*paths, as_json=as_json, verbose=verbose)


def test_the_same_machine(streams: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = streams / "virt-7.2"
    assert differ(path, path) == 0
    assert capsys.readouterr().out == "the same machine\n"
    assert differ(path, path, as_json=True) == 0
    document = json.loads(capsys.readouterr().out)
    assert document == {"files": [str(path)] * 2, "same": True, "fields": [], "ram": []}


def test_each_field_and_page_that_differs_is_named(toy: Machine, tmp_path: Path, capsys: Any) -> None:
    toy.save(tmp_path / "before")
    toy.serial.write("x")
    toy.run(until=Serial("x"), timeout=20)
    toy.save(tmp_path / "after")
    assert differ(tmp_path / "before", tmp_path / "after") == DIFFERENT
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("timer cpu_clock_offset: 0x") for line in lines)
    assert any(line.startswith("ram riscv_virt_board.ram: ") and " page" in line for line in lines)
    assert differ(tmp_path / "before", tmp_path / "after", as_json=True) == DIFFERENT
    document = json.loads(capsys.readouterr().out)
    assert document["same"] is False
    assert document["ram"][0]["pages"] >= 1
    assert {"section", "field", "values"} == set(document["fields"][0])


def test_a_file_and_a_snapshot_of_one_moment_are_the_same_machine(toy: Machine, tmp_path: Path) -> None:
    toy.save(tmp_path / "stream")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toy, "_snapshots", tmp_path)
        toy.savevm("toy")
    assert differ(tmp_path / "stream", tmp_path / "toy.snapshot") == 0


def test_what_only_one_has(streams: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert differ(streams / "virt-10.0", streams / "virt-10.0-mapped") == DIFFERENT
    lines = capsys.readouterr().out.splitlines()
    assert "fw_cfg fw_cfg/acpi_mr: present | missing" in lines
    assert "virt_acpi_build: version 1 | missing" in lines
    assert "ram /rom@etc/acpi/tables: 128 KiB | missing" in lines
    assert "ram riscv_virt_board.ram: 1 page: 0xe00000-0xe00fff" in lines


# Errors, and the command


def test_what_was_read_is_shown_before_the_error(streams: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut"
    path.write_bytes((streams / "virt-7.2").read_bytes()[:202_000])
    message = f"{path}: cpu at byte 0x311ea: expected the section's footer within 806 bytes, got none"
    done = mini_qemu(path)
    assert (done.returncode, done.stderr) == (1, f"mini-qemu: {message}\n")
    assert "16 MiB, 4096 pages: 3 data" in done.stdout
    assert "cpu_common  version 1, 37 bytes" in done.stdout
    done = mini_qemu(path, "--json")
    assert (done.returncode, done.stderr) == (1, f"mini-qemu: {message}\n")
    document = json.loads(done.stdout)
    assert len(document["sections"]) == 4
    assert document["error"]["kind"] == "FramingError"
    assert document["error"]["offset"] == 0x311EA
    done = mini_qemu(path, "--diff", streams / "virt-7.2")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"mini-qemu: {message}\n")


def test_fields_are_shown_up_to_the_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fields = [field("x", "uint8", 1), field("y", "uint8", 1 << 40), {"name": ["z"], "index": "x"}]
    with pytest.raises(FileError, match=r"dev y at byte 0x23: expected 1099511627776 bytes"):
        inspect_file(tiny(tmp_path / "s", b"\5", fields, subsections=["x"]), as_json=False, verbose=False)
    assert capsys.readouterr().out.splitlines()[3:] == ["dev  version 1, 18 bytes at 0x11", "  x uint8 0x5"]


NONSENSE = [0, -1, 1 << 40, True, 1.5, None, "", "x", "struct", "uint64", [], {}, [{}], {"fields": []}]
KEYS = ["array_len", "fields", "index", "name", "size", "struct", "subsections", "type", "vmsd_name"]


def mutated(value: Any, chance: random.Random) -> Any:
    """A description with a few things missing, doubled or replaced."""
    if isinstance(value, dict):
        value = {name: mutated(item, chance) for name, item in value.items()}
        if value and chance.random() < 0.004:
            del value[chance.choice(list(value))]
        if chance.random() < 0.004:
            value[chance.choice(KEYS)] = chance.choice(NONSENSE)
    elif isinstance(value, list):
        value = [mutated(item, chance) for item in value for _ in range(1 + (chance.random() < 0.002))]
    return value


@pytest.mark.parametrize("seed", range(150))
def test_whatever_the_description_says_there_is_no_traceback(
    seed: int, streams: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = (streams / "virt-7.2").read_bytes()
    mark, text = find_description(memoryview(data))
    writer = Writer()
    writer.write(data[: mark - 1])
    put_end(writer, json.dumps(mutated(json.loads(text), random.Random(seed))).encode())
    path = tmp_path / "stream"
    path.write_bytes(writer.data)
    for as_json in (False, True):
        with contextlib.suppress(FileError):
            inspect_file(path, as_json=as_json, verbose=False)
        said = capsys.readouterr().out
        assert "sections" in json.loads(said) if as_json else "ram  version 4" in said
    with contextlib.suppress(FileError):
        diff_files(streams / "virt-7.2", path, as_json=False, verbose=False)


@pytest.mark.parametrize("mode", [[], ["--json"], ["--diff", __file__]])
def test_what_is_no_stream_is_one_line(mode: list[str]) -> None:
    done = mini_qemu(__file__, *mode)
    assert done.returncode == 1
    assert done.stderr.startswith(
        f"mini-qemu: {__file__}: stream at byte 0x0: expected a migration stream, which begins"
    )
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("path", ["/nowhere/file", "/", "/dev/null", ""])
def test_what_is_no_file_is_one_line(path: str) -> None:
    done = mini_qemu(path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("mini-qemu: cannot ")
    assert done.stderr.count("\n") == 1


def test_exit_status_tells_same_different_and_wrong_apart(streams: Path) -> None:
    first, second = streams / "virt-7.2", streams / "virt-10.0"
    assert [mini_qemu(first, "--diff", other).returncode for other in (first, second, "/nowhere")] == [0, 2, 1]


def test_a_reader_that_leaves_early_is_no_traceback(streams: Path) -> None:
    command = f"{' '.join(COMMAND)} {streams / 'virt-7.2'} | head -1"
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("mode", [[], ["--json"]])
def test_full_disk_is_the_outputs_error_and_not_the_files(streams: Path, mode: list[str]) -> None:
    command = [*COMMAND, str(streams / "virt-7.2"), *mode]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False
        )
    assert (done.returncode, done.stderr) == (1, "mini-qemu: standard output: No space left on device\n")
