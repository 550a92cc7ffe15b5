from __future__ import annotations

import pytest

from emulator.core.errors import ConfigError
from emulator.sizes import parse_size, show_size


@pytest.mark.parametrize(
    ("text", "size"),
    [("128M", 128 << 20), ("128", 128 << 20), ("1.5G", 3 << 29), ("64k", 64 << 10), ("4096B", 4096), (8192, 8192)],
)
def test_sizes_are_spelled_as_in_qemu(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "-1M", "12Q", "1e9", "0x100", "9" * 40, "128 MB", "٣M"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a size"):
        parse_size(text)


@pytest.mark.parametrize("text", ["0", "1B", "17T", "999999999T", -4096, 4097])
def test_a_size_out_of_range_is_refused(text: str | int) -> None:
    with pytest.raises(ConfigError, match="RAM size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        *((0, "0 B"), (1, "1 B"), (999, "999 B"), (1000, "0.977 KiB"), (1024, "1 KiB"), (469_000, "458 KiB")),
        *((1 << 20, "1 MiB"), (3 << 29, "1.5 GiB"), (1 << 44, "16 TiB"), (1 << 62, "4 EiB")),
    ],
)
def test_sizes_are_shown_as_in_qemu(size: int, text: str) -> None:
    assert show_size(size) == text
