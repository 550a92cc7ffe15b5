"""UUIDs as people write them and as 16 bytes, in the order in which they are written."""

from __future__ import annotations

import re

from emulator.core.errors import ConfigError

NO_UUID = bytes(16)
"""What a machine without one has."""

_TEXT = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def parse_uuid(text: str) -> bytes:
    """The bytes of a UUID in its usual form, 8-4-4-4-12 hexadecimal digits; raises ConfigError for any other."""
    if not _TEXT.fullmatch(text):
        raise ConfigError(f"UUID '{text}': expected a form like 550e8400-e29b-41d4-a716-446655440000")
    return bytes.fromhex(text.replace("-", ""))


def format_uuid(data: bytes) -> str:
    """The usual form of 16 bytes."""
    digits = data.hex()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
