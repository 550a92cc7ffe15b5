from __future__ import annotations

import threading

import pytest

from emulator.chardev import Recorder


def test_collects_output_and_feeds_input(guest):
    recorder = Recorder(guest.port)
    guest.port.send(b"a")
    guest.port.send(b"b")
    assert recorder.output == b"ab"
    recorder.feed(b"typed")
    assert guest.port.receive(10) == b"typed"


def test_wait_for_returns_everything_since_the_previous_match(guest):
    recorder = Recorder(guest.port)
    guest.port.send(b"boot\nlogin: shell\n$ $ ")
    assert recorder.wait_for(b"login: ", 0) == b"boot\nlogin: "
    assert recorder.wait_for(b"$ ", 0) == b"shell\n$ "
    assert recorder.wait_for(b"$ ", 0) == b"$ "
    with pytest.raises(TimeoutError):
        recorder.wait_for(b"$ ", 0)


def test_wait_for_sees_text_that_comes_in_pieces(guest):
    recorder = Recorder(guest.port)

    def machine():
        for byte in b"noise, lo" + b"login: ":
            guest.port.send(bytes([byte]))

    thread = threading.Thread(target=machine)
    thread.start()
    assert recorder.wait_for(b"login: ", 20) == b"noise, lologin: "
    thread.join()


def test_timeout_names_what_was_missing_and_what_came_and_loses_nothing(guest):
    recorder = Recorder(guest.port)
    guest.port.send(b"panic!")
    with pytest.raises(TimeoutError, match=r"serial0: no b'login' within 0 s; the last output is b'panic!'"):
        recorder.wait_for(b"login", 0)
    assert recorder.wait_for(b"panic", 0) == b"panic"


def test_limit_keeps_the_last_bytes(guest):
    recorder = Recorder(guest.port, limit=4)
    guest.port.send(b"abc")
    assert recorder.wait_for(b"b", 0) == b"ab"
    guest.port.send(b"defgh")
    assert recorder.output == b"efgh"
    assert recorder.wait_for(b"g", 0) == b"efg"
    assert recorder.wait_for(b"h", 0) == b"h"
    guest.port.send(b"x" * 1000)
    assert recorder.output == b"xxxx"


@pytest.mark.parametrize("limit", [0, -1])
def test_limit_must_be_positive(guest, limit):
    with pytest.raises(ValueError, match="not positive"):
        Recorder(guest.port, limit=limit)


def test_tells_of_output_and_lets_go_on_close(guest):
    recorder = Recorder(guest.port)
    told = []
    recorder.on_output = lambda: told.append(recorder.output)
    guest.port.send(b"a")
    recorder.close()
    guest.port.send(b"b")
    assert told == [b"a"]
    assert recorder.output == b"a"
    assert recorder.filename == "memory"
