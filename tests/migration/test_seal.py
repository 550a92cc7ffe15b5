"""The note in a stream's description, and the checksum at its end."""

from __future__ import annotations

import json

import pytest
import xxhash

from emulator.migration import seal
from emulator.migration.errors import VmdescError

DESCRIPTION = b'{"configuration": {}, "page_size": 4096, "devices": []}'
HEAD = b"QEVM of old"
TAIL = b"\x7e\x00\x01" + seal.with_note(DESCRIPTION, {"tag": "a", "blocks": {"ram": "12"}})


def test_note_is_the_descriptions_last_member_and_ends_with_the_checksum() -> None:
    description = json.loads(seal.with_note(DESCRIPTION, {"tag": "a", "taken": 1.5}))
    assert list(description) == ["configuration", "page_size", "devices", "mini-qemu"]
    assert description["mini-qemu"] == {"tag": "a", "taken": 1.5, "state": "0" * 32}


def test_checksum_is_xxh3_of_all_that_stands_before_it() -> None:
    sealed = seal.sealed([HEAD, b"more"], TAIL)
    before, digits, end = sealed[:-35], sealed[-35:-3], sealed[-3:]
    assert (len(sealed), end) == (len(TAIL), b'"}}')
    assert digits.decode() == xxhash.xxh3_128(HEAD + b"more" + before).hexdigest()


def test_note_is_found_again() -> None:
    note = seal.note_of(seal.sealed([HEAD], TAIL)[3:])
    assert note is not None
    assert (note["tag"], note["blocks"]) == ("a", {"ram": "12"})


@pytest.mark.parametrize("description", [b"{}", b"[]", b"7", b'{"mini-qemu": 7}', b'{"mini-qemu": null}', DESCRIPTION])
def test_description_without_a_note_has_none(description: bytes) -> None:
    assert seal.note_of(description) is None


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}"])
def test_description_that_is_no_json_is_refused(text: bytes) -> None:
    with pytest.raises(VmdescError, match="expected a JSON description"):
        seal.note_of(text)


def test_what_was_sealed_is_intact_and_no_altered_bit_goes_unnoticed() -> None:
    sealed = seal.sealed([HEAD], TAIL)
    assert seal.is_intact([HEAD, sealed])
    whole = HEAD + sealed
    for bit in range(8 * len(whole)):
        altered = bytearray(whole)
        altered[bit // 8] ^= 1 << bit % 8
        assert not seal.is_intact([bytes(altered[: len(HEAD)]), bytes(altered[len(HEAD) :])])


def test_cut_short_or_longer_it_is_not_intact() -> None:
    sealed = seal.sealed([HEAD], TAIL)
    assert not any(seal.is_intact([HEAD, sealed[:length]]) for length in range(len(sealed)))
    assert not seal.is_intact([HEAD, sealed + b'"}}'])
    assert not seal.is_intact([HEAD, sealed + sealed[-35:]])
