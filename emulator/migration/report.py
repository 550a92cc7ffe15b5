"""What became of a migration, to look at afterwards: data as JSON, or one page with plots that needs nothing else.

The figures of each pass are the migration's own; between them a recorder looks a few times a second at how much has
been sent.
"""

from __future__ import annotations

import json
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from emulator.core.errors import ConfigError
from emulator.migration.files import replacing
from emulator.migration.status import Progress

INTERVAL_SECONDS = 0.02
SAMPLE_LIMIT = 1000
"""When there are so many samples, every second one is dropped and the interval doubled."""


@dataclass(frozen=True, slots=True)
class Sample:
    """How things stood at one moment."""

    seconds: float
    """Since the migration began."""
    status: str
    transferred: int
    """Bytes so far."""
    throttle: int
    """Per cent."""


class Recorder:
    """Takes samples of a migration to `uri` while a `with` block runs."""

    def __init__(self, progress: Progress, uri: str) -> None:
        self.progress = progress
        self.uri = uri
        self.samples: list[Sample] = []
        self._interval = INTERVAL_SECONDS
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="migration report", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()
        self.take()

    def take(self) -> None:
        """Take one now."""
        progress, figures = self.progress, self.progress.figures
        self.samples.append(Sample(progress.elapsed(), str(progress.status), figures.transferred, figures.throttle))
        if len(self.samples) >= SAMPLE_LIMIT:
            del self.samples[::2]
            self._interval *= 2

    def _run(self) -> None:
        while not self._ended.wait(self._interval):
            self.take()


def report_path(path: str | Path) -> Path:
    """Where a report is to go, if that can be and the name tells what it is to be; raises ConfigError."""
    path = Path(path)
    if path.suffix not in (".html", ".json"):
        raise ConfigError(f"report '{path}': the name must end in .html or .json")
    if not path.parent.is_dir():
        raise ConfigError(f"report '{path}': '{path.parent}' is no directory")
    return path


def write_report(path: Path, recorder: Recorder) -> None:
    """Write a migration's report in the form that the name of the file asks for; raises FileError."""
    data = report(recorder)
    if path.suffix == ".json":
        text = json.dumps(data, indent=1) + "\n"
    else:
        from emulator.migration.reportpage import page

        text = page(data)
    with replacing(path) as file:
        file.write(text.encode())


def report(recorder: Recorder) -> dict[str, Any]:
    """All that is known of a migration; bytes, pages, seconds."""
    progress = recorder.progress
    return {
        "status": str(progress.status),
        "error": progress.error,
        "uri": recorder.uri,
        "figures": asdict(progress.figures),
        "samples": [asdict(sample) for sample in recorder.samples],
    }
