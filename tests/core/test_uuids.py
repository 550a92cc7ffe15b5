from __future__ import annotations

import pytest

from emulator.core.errors import ConfigError
from emulator.core.uuids import NO_UUID, format_uuid, parse_uuid

TEXT = "550e8400-e29b-41d4-a716-446655440000"
DATA = bytes.fromhex("550e8400e29b41d4a716446655440000")


def test_bytes_are_in_the_order_of_the_text() -> None:
    assert parse_uuid(TEXT) == parse_uuid(TEXT.upper()) == DATA
    assert format_uuid(DATA) == TEXT
    assert format_uuid(NO_UUID) == "00000000-0000-0000-0000-000000000000"


@pytest.mark.parametrize("text", ["", "1", TEXT[:-1], TEXT + "0", TEXT.replace("-", ""), f"{{{TEXT}}}", TEXT + "\n"])
def test_other_forms_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected a form like"):
        parse_uuid(text)
