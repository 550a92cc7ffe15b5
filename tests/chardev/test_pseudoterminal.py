from __future__ import annotations

import os
import threading

import pytest

from emulator.chardev import open_chardev
from emulator.chardev.output import OUTPUT_LIMIT


class Pty:
    def __init__(self, guest, loop):
        self.said = []
        self.opened, self.closed = threading.Semaphore(0), threading.Semaphore(0)
        self.chardev = open_chardev(
            "pty",
            guest.port,
            loop,
            announce=self.said.append,
            on_open=self.opened.release,
            on_close=self.closed.release,
        )

    def connect(self):
        fd = os.open(self.chardev.path, os.O_RDWR | os.O_NOCTTY)
        assert self.opened.acquire(timeout=20)
        return fd


@pytest.fixture
def pty(guest, loop):
    pty = Pty(guest, loop)
    yield pty
    pty.chardev.close()


def test_path_is_announced_as_qemu_does(pty):
    assert pty.said == [f"char device redirected to {pty.chardev.path} (label serial0)"]
    assert pty.chardev.filename == f"pty:{pty.chardev.path}"


def test_bytes_pass_unchanged_both_ways(pty, guest, reads):
    client = pty.connect()
    os.write(client, b"a\r\n\x03\x04\x1a\x7f\xff")
    assert guest.read(8) == b"a\r\n\x03\x04\x1a\x7f\xff"
    guest.port.send(b"b\n\r\x00end")
    assert reads.until(client, b"end") == b"b\n\r\x00end"
    os.close(client)


def test_clients_come_and_go(pty, guest, reads):
    for number in range(3):
        client = pty.connect()
        os.write(client, b"%d" % number)
        assert guest.read(1) == b"%d" % number
        guest.port.send(b"hello")
        assert reads.until(client, b"hello") == b"hello"
        os.close(client)
        assert pty.closed.acquire(timeout=20)


def test_output_without_a_client_is_discarded(pty, guest, reads):
    guest.port.send(bytes(4 * OUTPUT_LIMIT))
    client = pty.connect()
    guest.port.send(b"now")
    assert reads.until(client, b"now").lstrip(b"\0") == b"now"
    os.close(client)


def test_output_right_after_a_client_came_is_not_lost(pty, guest, reads):
    client = os.open(pty.chardev.path, os.O_RDWR | os.O_NOCTTY)
    guest.port.send(b"at once")
    assert reads.until(client, b"at once") == b"at once"
    os.close(client)


def test_input_of_a_client_that_has_gone_already_is_not_lost(pty, guest):
    client = os.open(pty.chardev.path, os.O_RDWR | os.O_NOCTTY)
    os.write(client, b"brief")
    os.close(client)
    assert guest.read(5) == b"brief"


def test_close_lets_go_of_a_machine_that_waits_for_a_stalled_client(pty, guest):
    client = pty.connect()
    sender = threading.Thread(target=guest.port.send, args=(bytes(4 * OUTPUT_LIMIT),))
    sender.start()
    pty.chardev.close()
    sender.join(20)
    assert not sender.is_alive()
    os.close(client)
