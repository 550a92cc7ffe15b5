"""What these tests share: bytes written down with a comment per field, and both ways through a description."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from emulator.migration.errors import StreamError, TruncatedError
from emulator.migration.vmstate import VMStateDescription
from emulator.migration.wire import Reader, Writer


def parse_wire(text: str) -> bytes:
    """The bytes of a table with one field a line: hexadecimal digits, then ` | ` and what they are."""
    return bytes.fromhex(" ".join(line.partition("|")[0] for line in text.splitlines()))


def save_bytes(description: VMStateDescription, state: Any, version_id: int | None = None) -> bytes:
    """What `state` looks like on the wire; the same with and without a JSON description being made."""
    plain, described = Writer(), Writer()
    description.save(state, plain, version_id=version_id)
    description.save(state, described, version_id=version_id, vmdesc={})
    assert plain.data == described.data
    return bytes(plain.data)


def load_all(
    description: VMStateDescription, data: bytes, version_id: int | None = None, fresh: Callable[[], Any] | None = None
) -> Any:
    """The state that `data` holds, all of it; every truncation of it must be refused by one line."""
    for length in range(len(data)):
        with pytest.raises(TruncatedError) as caught:
            description.load(Reader(data[:length]), version_id, fresh() if fresh else None)
        assert caught.value.offset is not None
        assert caught.value.offset <= length
        assert caught.value.section == description.name
        assert "\n" not in str(caught.value)
    reader = Reader(data)
    state = description.load(reader, version_id, fresh() if fresh else None)
    assert reader.remaining == 0
    return state


def refusal(description: VMStateDescription, data: bytes, fresh: Any = None, version_id: int | None = None) -> Any:
    """The error with which `data` is refused."""
    with pytest.raises(StreamError) as caught:
        description.load(Reader(data), version_id, fresh)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.fixture
def wire() -> Callable[[str], bytes]:
    return parse_wire


@pytest.fixture
def save() -> Callable[..., bytes]:
    return save_bytes


@pytest.fixture
def load() -> Callable[..., Any]:
    return load_all


@pytest.fixture
def refused() -> Callable[..., Any]:
    return refusal
