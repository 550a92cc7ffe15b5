from __future__ import annotations

import os
import time

import pytest

from emulator.chardev import open_chardev
from emulator.core.errors import ChardevError


def test_file_is_emptied_and_holds_all_output_after_close(loop, guest, tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"old contents")
    chardev = open_chardev(f"file:{path}", guest.port, loop)
    for number in range(5000):
        guest.port.send(b"%d\n" % number)
    chardev.close()
    assert path.read_bytes() == b"".join(b"%d\n" % number for number in range(5000))
    assert chardev.filename == "file"


def test_output_after_close_goes_nowhere(loop, guest, tmp_path):
    path = tmp_path / "log"
    chardev = open_chardev(f"file:{path}", guest.port, loop)
    chardev.close()
    chardev.close()
    guest.port.send(b"late")
    assert path.read_bytes() == b""


def test_missing_directory_is_one_line(loop, guest, tmp_path):
    with pytest.raises(ChardevError) as caught:
        open_chardev(f"file:{tmp_path}/none/log", guest.port, loop)
    assert str(caught.value) == f"cannot open {tmp_path}/none/log: No such file or directory"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")  # noqa: PTH110
def test_full_disk_is_said_once_and_output_goes_nowhere(loop, guest, settle):
    said = []
    chardev = open_chardev("file:/dev/full", guest.port, loop, announce=said.append)
    guest.port.send(b"x")
    settle(loop, lambda: bool(said))
    guest.port.send(bytes(1 << 22))
    chardev.close()
    assert said == ["/dev/full: No space left on device; further output of serial0 is lost"]


def test_a_million_single_bytes_cost_well_under_a_second(loop, guest, tmp_path):
    path = tmp_path / "log"
    chardev = open_chardev(f"file:{path}", guest.port, loop)
    started = time.thread_time()
    for _ in range(1_000_000):
        guest.port.send(b"x")
    spent = time.thread_time() - started
    chardev.close()
    assert path.stat().st_size == 1_000_000
    assert spent < 1.0


def test_null_swallows_output(loop, guest):
    chardev = open_chardev("null", guest.port, loop)
    guest.port.send(bytes(1 << 22))
    assert chardev.filename == "null"
    assert chardev.patient
    chardev.close()
