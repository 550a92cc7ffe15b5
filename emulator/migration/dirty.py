"""Which pages of guest memory have been written: the log that a live migration reads, by the best means there is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from emulator.core.errors import ConfigError
from emulator.core.memory import RamBlock
from emulator.migration.comparison import ComparisonLog
from emulator.migration.userfault import UserfaultLog


class DirtyLog(Protocol):
    """A log of writes to some RAM blocks, by whomever: the guest, devices, Python, or the kernel for them.

    Whoever sends a page that was reported, and each page once at the beginning, as `rows` has it after that, ends up
    with what the block holds when nobody writes any more and a last `collect` has been sent.
    """

    name: str
    """By which means: `userfaultfd` or `comparison`."""

    def collect(self, block: RamBlock) -> NDArray[np.bool_]:
        """For each page whether it was written since the log was opened or this was last called.

        A write at the same time is reported now or the next time. A page may be reported that was not written, such as
        one that nobody had ever used before it was read.
        """

    def rows(self, block: RamBlock) -> NDArray[np.uint64]:
        """What pages are to be sent from: a row of 512 words each, at the host address `rows.ctypes.data`.

        Not `block.view`, where a page may change and change back without being reported. Valid until `close`.
        """

    def data_pages(self, block: RamBlock) -> NDArray[np.bool_]:
        """For each page whether it holds anything but zeros in `rows`, without touching those that were never used."""

    def close(self) -> None:
        """Stop logging: the memory is as it was before; harmless when repeated. Nothing else may be called then."""


KINDS: dict[str, type[UserfaultLog] | type[ComparisonLog]] = {log.name: log for log in (UserfaultLog, ComparisonLog)}
"""All means by name, the best first."""


def open_dirty_log(blocks: Sequence[RamBlock], *, kind: str | None = None) -> DirtyLog:
    """Begin to log writes to the blocks, which may go on meanwhile; by the best means that works here, or by `kind`.

    No block's contents may be exchanged while it is logged. Raises ConfigError if that kind does not work here or is
    unknown, or if there is no memory for it.
    """
    if kind is not None and kind not in KINDS:
        raise ConfigError(f"'{kind}' is no kind of dirty logging; there are {', '.join(KINDS)}")
    if kind != ComparisonLog.name:
        try:
            return UserfaultLog(blocks)
        except OSError as error:
            if kind is not None:
                why = error.strerror or error
                raise ConfigError(f"dirty logging by {kind} does not work here: {why}") from error
    return ComparisonLog(blocks)
