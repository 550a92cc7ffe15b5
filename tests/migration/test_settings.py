from __future__ import annotations

import pytest

from emulator.core.errors import ConfigError
from emulator.migration.settings import PARAMETERS, Settings


@pytest.mark.parametrize("size", [4096, 8192, 64 << 20, 1 << 40])
def test_xbzrle_cache_has_a_power_of_two_of_pages(size: int) -> None:
    settings = Settings()
    settings.set({"xbzrle-cache-size": size})
    assert settings.number("xbzrle-cache-size") == size


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (12288, "parameter 'xbzrle-cache-size' expects a power of two, not 12288"),
        (2048, "parameter 'xbzrle-cache-size' expects 4096 to 1099511627776, not 2048"),
    ],
)
def test_another_size_of_the_xbzrle_cache_is_refused_and_nothing_is_set(size: int, message: str) -> None:
    settings = Settings()
    with pytest.raises(ConfigError) as caught:
        settings.set({"downtime-limit": 1, "xbzrle-cache-size": size})
    assert str(caught.value) == message
    assert settings.parameters == {name: parameter.default for name, parameter in PARAMETERS.items()}
