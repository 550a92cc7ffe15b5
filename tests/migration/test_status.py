"""Figures that stay bounded however long a migration lasts, and states that are told in their order."""

from __future__ import annotations

import threading

from emulator.core.memory import PAGE_SIZE
from emulator.migration.status import PASS_LIMIT, Figures, Progress, Status


def test_passes_without_end_take_no_memory_without_end() -> None:
    figures = Figures(remaining=3 * PAGE_SIZE)
    for number in range(5 * PASS_LIMIT):
        this = figures.begin_pass(float(number))
        this.seconds, this.bytes_sent, this.dirtied = 0.5, 100, 3
    assert len(figures.passes) <= PASS_LIMIT
    assert figures.pass_count == 5 * PASS_LIMIT
    assert sum(one.bytes_sent for one in figures.passes) == 100 * figures.pass_count
    assert sum(one.pages for one in figures.passes) == sum(one.dirtied for one in figures.passes) == 3 * 5 * PASS_LIMIT
    assert sum(one.seconds for one in figures.passes) == 0.5 * figures.pass_count
    assert [one.begun for one in figures.passes] == sorted(one.begun for one in figures.passes)
    assert (figures.passes[0].begun, figures.passes[-1].begun) == (0.0, figures.pass_count - 1.0)


def test_changes_are_told_in_their_order() -> None:
    """Who waits for `cancelling` and goes on at once cannot overtake whoever tells it."""
    told: list[Status] = []
    progress = Progress()

    def tell(status: Status) -> None:
        if status is Status.CANCELLING:
            other.start()
            other.join(0.05)  # it may not end before this returns
        told.append(status)

    other = threading.Thread(target=lambda: progress.change(Status.CANCELLED))
    progress.on_change = tell
    progress.begin()
    progress.change(Status.CANCELLING)
    other.join()
    assert told == [Status.SETUP, Status.CANCELLING, Status.CANCELLED]


def test_cleaning_up_does_not_count_as_time() -> None:
    progress = Progress()
    progress.begin()
    progress.stop_clock()
    taken = progress.elapsed()
    assert progress.change(Status.FAILED)
    assert progress.figures.total_time == progress.elapsed() == taken
