"""Sizes as QEMU's command line spells them."""

from __future__ import annotations

import re

from emulator.core.errors import ConfigError
from emulator.core.memory import PAGE_SIZE

MOST_RAM = 1 << 44
"""16 TiB: beyond it, the 64-bit PCIe window would not fit into 48 address bits with room to spare."""

_UNITS = {"": 20, "B": 0, "K": 10, "M": 20, "G": 30, "T": 40}

_PREFIXES = ("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei")


def parse_size(size: int | str) -> int:
    """Bytes of RAM from `"128M"`, `"2G"`, `"512"` (MiB) or a number of bytes; ConfigError unless whole pages."""
    if isinstance(size, str):
        match = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)([BKMGT]?)", size.strip().upper())
        if match is None:
            raise ConfigError(f"'{size}' is not a size: use a number with K, M, G or T, such as 128M")
        size_bytes = int(float(match[1]) * (1 << _UNITS[match[2]]))
    else:
        size_bytes = size
    if size_bytes > MOST_RAM:
        raise ConfigError(f"RAM size {size} is more than {MOST_RAM >> 40} TiB")
    if size_bytes <= 0 or size_bytes % PAGE_SIZE:
        raise ConfigError(f"RAM size {size} is not a positive multiple of {PAGE_SIZE} bytes")
    return size_bytes


def parse_number(text: str, *, unit: str = "B") -> int:
    """A number such as `100`, `0x40`, `1.5G` or `64k`, of this unit if it names none; ConfigError if it is none."""
    match = re.fullmatch(r"(0X[0-9A-F]{1,16}|[0-9]{1,20}(?:\.[0-9]{1,6})?)([BKMGT]?)", text.strip().upper())
    if match is None:
        raise ConfigError(f"'{text}' is not a number: use digits, and perhaps K, M, G or T behind them")
    shift = _UNITS[match[2] or unit]
    digits = match[1]
    if digits.startswith("0X"):
        return int(digits, 16) << shift
    return int(digits) << shift if digits.isdigit() else int(float(digits) * (1 << shift))


def show_size(size: int) -> str:
    """A number of bytes as QEMU shows it: three digits and a unit, such as `459 KiB`."""
    power = 0
    while size >= 1000 << 10 * power and power < len(_PREFIXES) - 1:
        power += 1
    return f"{size / (1 << 10 * power):.3g} {_PREFIXES[power]}B"
