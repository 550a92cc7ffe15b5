"""Background jobs, as QMP has them: work with a name, whose progress is told in events and whose result waits.

The work is done on the machine's thread, as saving and loading always are, soon after the command that began it has
been answered. Whoever asks in between is answered when it is done: as in QEMU, a snapshot's job is only ever seen
concluded.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from emulator.core.errors import EmulatorError, MonitorError
from emulator.events import Events

T = TypeVar("T")

JOB_LIMIT = 1000
"""Jobs that nobody has dismissed."""
ID_LIMIT = 256

_ID = re.compile(r"[A-Za-z][A-Za-z0-9._-]*")


class Machine(Protocol):
    """What jobs need of a machine."""

    @property
    def events(self) -> Events:
        """Where a job's changes are told."""

    def call(self, function: Callable[[], T], /) -> T:
        """Run `function` on the machine's thread."""

    def post(self, function: Callable[[], None], /) -> None:
        """Have it run there soon."""


@dataclass(slots=True)
class Job:
    """One job; `status` is one of QAPI's `JobStatus`, `error` why it failed."""

    id: str
    type: str
    status: str = "undefined"
    error: str | None = None


class Jobs:
    """The jobs of one machine, newest first; from any thread."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}

    def start(self, machine: Machine, name: str, kind: str, work: Callable[[], None]) -> None:
        """Begin a job, whose `work` may raise an EmulatorError; MonitorError if it cannot have this name."""

        def begin() -> None:
            if not _ID.fullmatch(name) or len(name) > ID_LIMIT:
                raise MonitorError(f"Invalid job ID '{name[:ID_LIMIT]}'")
            if name in self._jobs:
                raise MonitorError(f"Job ID '{name}' already in use")
            if len(self._jobs) == JOB_LIMIT:
                raise MonitorError(f"there are {JOB_LIMIT} jobs already; dismiss some")
            job = self._jobs[name] = Job(name, kind)
            _change(machine, job, "created", "running")
            machine.post(lambda: _carry_out(machine, job, work))

        machine.call(begin)

    def query(self, machine: Machine) -> list[dict[str, Any]]:
        """Every job, as QAPI's `JobInfo`."""
        return machine.call(lambda: [_info(job) for job in reversed(self._jobs.values())])

    def dismiss(self, machine: Machine, name: str) -> None:
        """Forget a job that has concluded; MonitorError if there is none of this name."""

        def forget() -> None:
            if name not in self._jobs:
                raise MonitorError("Job not found")
            _change(machine, self._jobs.pop(name), "null")

        machine.call(forget)


def _carry_out(machine: Machine, job: Job, work: Callable[[], None]) -> None:
    try:
        work()
    except EmulatorError as error:
        job.error = str(error)
        _change(machine, job, "aborting", "concluded")
    else:
        _change(machine, job, "waiting", "pending", "concluded")


def _change(machine: Machine, job: Job, *steps: str) -> None:
    for status in steps:
        job.status = status
        machine.events.emit("JOB_STATUS_CHANGE", {"id": job.id, "status": status})


def _info(job: Job) -> dict[str, Any]:
    info = {"id": job.id, "type": job.type, "status": job.status, "current-progress": 1, "total-progress": 1}
    return info if job.error is None else {**info, "error": job.error}
