"""The cache of pages that were sent: what is in it is what the destination has, and who stays if two want a place."""

from __future__ import annotations

import numpy as np
import pytest

from emulator.core.errors import ConfigError
from emulator.core.memory import PAGE_SIZE
from emulator.migration.pagecache import AT_ONCE, PageCache
from emulator.migration.status import XbzrleFigures
from emulator.migration.xbzrle import OVERFLOW

SLOTS = 4


@pytest.fixture
def figures() -> XbzrleFigures:
    return XbzrleFigures()


@pytest.fixture
def cache(figures: XbzrleFigures) -> PageCache:
    return PageCache(SLOTS * PAGE_SIZE, figures)


def look(cache: PageCache, *numbers: int, fill: int = 1, age: int = 1, keep: bool = True) -> list[int]:
    """The lengths for pages filled with words of this value."""
    pages = np.full((len(numbers), PAGE_SIZE // 8), fill, np.uint64)
    return list(cache.encode(np.array(numbers, np.intp), pages, age=age, keep=keep).lengths.tolist())


def test_pages_are_known_once_they_were_sent(cache: PageCache, figures: XbzrleFigures) -> None:
    assert look(cache, 0, 1) == [OVERFLOW, OVERFLOW]
    assert look(cache, 0, 1, 2) == [0, 0, OVERFLOW]
    assert (figures.pages, figures.cache_miss, figures.overflow, figures.bytes) == (2, 3, 0, 0)
    assert figures.cache_size == SLOTS * PAGE_SIZE


def test_what_was_sent_is_what_the_next_delta_is_made_against(cache: PageCache, figures: XbzrleFigures) -> None:
    look(cache, 0, fill=1)
    assert look(cache, 0, fill=2) == [3 * 512]
    assert look(cache, 0, fill=2) == [0]
    assert figures.bytes == 3 + 3 * 512


def test_a_delta_longer_than_its_page_is_counted_and_its_page_remembered(
    cache: PageCache, figures: XbzrleFigures
) -> None:
    look(cache, 0, fill=0)
    assert look(cache, 0, fill=(1 << 64) - 1) == [OVERFLOW]
    assert look(cache, 0, fill=(1 << 64) - 1) == [0]
    assert (figures.pages, figures.cache_miss, figures.overflow, figures.bytes) == (2, 1, 1, PAGE_SIZE)


def test_in_the_last_pass_nothing_is_remembered(cache: PageCache) -> None:
    look(cache, 0, fill=1)
    assert look(cache, 0, 1, fill=2, keep=False) == [3 * 512, OVERFLOW]
    assert look(cache, 0, 1, fill=1, keep=False) == [0, OVERFLOW]


def test_a_page_stays_for_two_passes_and_gives_way_then(cache: PageCache) -> None:
    look(cache, 0, age=1)
    assert look(cache, SLOTS, age=2) == [OVERFLOW]
    assert look(cache, 0, age=2) == [0]
    look(cache, SLOTS, age=4)
    assert look(cache, SLOTS, 0, age=5) == [0, OVERFLOW]


def test_of_pages_that_want_one_place_at_once_the_first_gets_it(cache: PageCache) -> None:
    look(cache, 0, SLOTS, 2 * SLOTS, 3)
    assert look(cache, 2 * SLOTS, SLOTS, 0, 3) == [OVERFLOW, OVERFLOW, 0, 0]


def test_a_page_that_became_zero_is_known_as_zero(cache: PageCache) -> None:
    look(cache, 0, fill=1)
    cache.put_zeros(np.array([0, 1]), age=2)
    assert look(cache, 0, 1, 2, fill=0, age=2) == [0, 0, OVERFLOW]
    cache.put_zeros(np.array([SLOTS]), age=2)
    assert look(cache, SLOTS, 0, fill=0, age=2) == [OVERFLOW, 0]


def test_more_pages_than_are_compared_at_once(figures: XbzrleFigures) -> None:
    count = 3 * AT_ONCE + 1
    cache = PageCache(4 * AT_ONCE * PAGE_SIZE, figures)
    assert look(cache, *range(count)) == [OVERFLOW] * count
    assert look(cache, *range(count), fill=0x101) == [3 * 512] * count
    assert look(cache) == []


def test_rates_are_those_of_the_last_pass(cache: PageCache, figures: XbzrleFigures) -> None:
    look(cache, 0, 1, 2)
    cache.end_pass()
    assert (figures.cache_miss_rate, figures.encoding_rate) == (1.0, 0.0)
    look(cache, 0, 1, 2, 3, fill=2)
    cache.end_pass()
    assert (figures.cache_miss_rate, figures.encoding_rate) == (0.25, PAGE_SIZE / (3 * 512 + 3))
    cache.end_pass()
    assert figures.cache_miss_rate == 0.25


def test_a_cache_that_memory_has_no_room_for_is_refused(figures: XbzrleFigures) -> None:
    with pytest.raises(ConfigError, match="xbzrle-cache-size"):
        PageCache(1 << 62, figures)
