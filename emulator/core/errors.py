"""The error tree: one class per culprit, each message a single line fit for a user.

The guest never raises one of these: its mistakes are logged and answered as the chip would answer. They mean that
the caller of the API, the user of the command line, or a file or peer from outside is wrong.
"""

from __future__ import annotations


class EmulatorError(Exception):
    """Root of all errors that mini-qemu raises on purpose; the command line prints it as one line and exits 1."""


class ConfigError(EmulatorError):
    """A machine, option, size or address that cannot be built as asked."""


class ImageError(EmulatorError):
    """An image or device tree file that cannot be loaded: missing, truncated, foreign, overlapping."""


class FileError(EmulatorError):
    """A stream or snapshot that cannot be written or opened: no room, no permission, no such file."""


class SnapshotError(EmulatorError):
    """A snapshot that is not there, has an impossible name, or is none."""


class ForeignError(SnapshotError):
    """A stream file among the snapshots that is as whole as any, but has no note and no checksums of ours."""


class ChardevError(EmulatorError):
    """A character device that cannot be opened: a path, a port in use, an unknown kind."""


class ChannelError(EmulatorError):
    """A migration's connection that cannot be made, or that failed: refused, no such file, a bad certificate."""


class MonitorError(EmulatorError):
    """A monitor command that cannot be carried out as typed."""


class MemoryAccessError(EmulatorError):
    """An address at which no device and no RAM answers, or not with this access size."""

    def __init__(self, address: int, size: int, why: str) -> None:
        super().__init__(f"cannot access {size} bytes at 0x{address:x}: {why}")
        self.address = address
        self.size = size


class EngineError(EmulatorError):
    """The CPU engine failed in a way that no guest can cause, or lacks something that was asked of it."""
