"""Patience: what takes too long is told, what ends in time is not."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from emulator.core.patience import Patience

LIMIT = 60
LONG = 3600.0


@pytest.fixture
def patience() -> Iterator[Patience]:
    patience = Patience()
    yield patience
    patience.close()
    assert "patience" not in {thread.name for thread in threading.enumerate()}


def never() -> None:
    raise AssertionError("it was in time")


def test_what_takes_too_long_is_told_once(patience: Patience) -> None:
    late = threading.Semaphore(0)
    begun = time.monotonic()
    with patience.limit(0.02, late.release):
        assert late.acquire(timeout=LIMIT)
    assert time.monotonic() - begun >= 0.02
    with patience.limit(0.02, late.release):
        assert late.acquire(timeout=LIMIT)
    assert not late.acquire(blocking=False)


def test_what_ends_in_time_is_not(patience: Patience) -> None:
    late = threading.Semaphore(0)
    for _ in range(100):
        with patience.limit(LONG, never):
            pass
    with patience.limit(0, late.release):
        assert late.acquire(timeout=LIMIT)


def test_the_inner_limit_counts_and_then_the_outer_one_again(patience: Patience) -> None:
    inner, outer = threading.Semaphore(0), threading.Semaphore(0)
    with patience.limit(LONG, never), patience.limit(0, inner.release):
        assert inner.acquire(timeout=LIMIT)
    with patience.limit(0.02, outer.release):
        with patience.limit(LONG, never):
            pass
        assert outer.acquire(timeout=LIMIT)


def test_the_limit_goes_with_an_exception(patience: Patience) -> None:
    with pytest.raises(ValueError, match="out"), patience.limit(0.02, never):
        raise ValueError("out")
    late = threading.Semaphore(0)
    with patience.limit(0.05, late.release):
        assert late.acquire(timeout=LIMIT)


def test_it_may_be_closed_inside_of_a_limit_by_whoever_is_told_and_again(patience: Patience) -> None:
    late = threading.Semaphore(0)

    def give_up() -> None:
        patience.close()
        late.release()

    with patience.limit(0, give_up):
        assert late.acquire(timeout=LIMIT)
    patience.close()
