"""Live migrations between two processes, again and again; and when one of them is killed, stopped or hostile."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import remote
from processes import TOY, wait_until
from remote import Remote

LOOPBACK = "tcp:127.0.0.1:0"


@pytest.fixture
def pair() -> Iterator[list[Remote]]:
    remotes = [Remote(kernel=TOY), Remote()]
    yield remotes
    for each in remotes:
        each.close()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_200_migrations_in_a_row(pair: list[Remote]) -> None:
    here, there = pair
    here.call(remote.boot)
    here.call(remote.type_at, "count\rdirty 50\r")
    spoken, heard = bytearray(), {here: 0, there: 0}

    def listen_to(speaker: Remote) -> None:
        output = speaker.call(remote.said)
        spoken.extend(output[heard[speaker] :])
        heard[speaker] = len(output)

    for number in range(200):
        here.call(remote.type_at, f"echo {number:04}\r")
        uri = there.call(remote.listen, LOOPBACK)
        there.begin(remote.wait_for_guest)
        assert here.call(remote.migrate, uri)[:2] == ("completed", None), number
        assert there.result() == "running"
        listen_to(here)
        here, there = there, here
    here.call(remote.type_at, "dirty check\rdirty\r")
    wait_until(lambda: b" passes, " in here.call(remote.said)[heard[here] :])
    listen_to(here)
    assert re.findall(rb"(\d+) errors", spoken)[1:] == [b"0", b"0"]
    assert [int(number) for number in re.findall(rb"\r\n(\d{4})\r\n", spoken)] == list(range(200))
    counted = [int(number) for number in re.findall(rb"count (\d+)\r", spoken)]
    assert counted == list(range(1, len(counted) + 1))
    assert len(counted) > 5
