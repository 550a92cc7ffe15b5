"""Fuzz loading: whatever bytes come, a stream is refused by one clear line, or loaded without harm.

The first byte of an input chooses the layout. Behind it come a stream, or what lies outside of the pages of a file in
the mapped layout. See README.md.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import atheris

TESTS = Path(__file__).resolve().parents[1] / "tests"
STREAM, MAPPED = 0, 1

with atheris.instrument_imports(include=["emulator"]):
    import emulator.machinestate
    import emulator.migration.mappedfile
    import emulator.migration.ram
    import emulator.migration.savevm  # noqa: F401


def module_of(path: str) -> ModuleType:
    """A test file as a module: the machine that streams are loaded into, and what is asserted, are the tests'."""
    specification = importlib.util.spec_from_file_location(Path(path).stem, TESTS / path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


class Fuzzer:
    """One machine that all inputs are loaded into."""

    def __init__(self, directory: Path) -> None:
        self.target = module_of("migration/test_hostile.py").Target()
        machine = self.target.machine
        machine._snapshots = directory
        machine.savevm("base")
        files = module_of("system/test_hostile_streams.py")
        self.mapped = files.MappedFile(machine, machine.snapshots._path_of("base"), sealed=False)
        self.original = b"".join(self.mapped.data[part.start : part.stop] for part in self.mapped.outside)
        self.loaded = 0

    def seeds(self) -> list[bytes]:
        """Good inputs to begin with."""
        return [bytes((STREAM,)) + self.target.short, bytes((MAPPED,)) + self.original]

    def one(self, data: bytes) -> None:
        """Try one input."""
        layout, data = data[:1], data[1:]
        if layout == bytes((MAPPED,)):
            self._put(data[: len(self.original)])
            refusal = self.mapped.load()
            self._put(self.original)
            assert refusal is None or str(refusal).isprintable()
            accepted = refusal is None
        else:
            accepted = self.target.attempt(data)
        self.loaded += accepted
        if accepted and self.loaded % 16 == 0:
            self.target.run()

    def _put(self, data: bytes) -> None:
        for part in self.mapped.outside:
            piece, data = data[: len(part)], data[len(part) :]
            self.mapped.put(part.start, piece)


def main() -> None:
    """Fuzz until libFuzzer's options in the arguments say that it is enough."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        fuzzer = Fuzzer(directory)
        corpus = directory / "corpus"
        corpus.mkdir()
        for number, seed in enumerate(fuzzer.seeds()):
            (corpus / f"seed{number}").write_bytes(seed)
        options = ["-max_len=65536", "-timeout=20", "-rss_limit_mb=2048", *sys.argv[1:]]
        if all(option.startswith("-") for option in sys.argv[1:]):
            options.append(str(corpus))
        atheris.Setup([sys.argv[0], *options], fuzzer.one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
