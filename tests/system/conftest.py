"""What these tests share: mini-qemu processes, ended with the test, and QEMU's script that reads streams.

The script is in QEMU's source only. It is taken from the directory that MINI_QEMU_QEMU_SOURCE names, or from Debian's
source package, which apt fetches with a list of sources of its own; the system's is neither changed nor needs deb-src
lines.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from certificates import both_sides
from processes import TOY, Emulator

SCRIPT = "scripts/analyze-migration.py"
SOURCES = (Path("/etc/apt/sources.list"), Path("/etc/apt/sources.list.d/debian.sources"))


@pytest.fixture
def source(mini_qemu: Callable[..., Emulator]) -> Emulator:
    """A process whose toy guest waits at its prompt."""
    emulator = mini_qemu("-kernel", str(TOY))
    emulator.serial.wait_for(rb"toy> $")
    return emulator


@pytest.fixture
def destination(mini_qemu: Callable[..., Emulator]) -> Emulator:
    """A process that will be told where a guest comes from."""
    return mini_qemu("-incoming", "defer")


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    return both_sides(tmp_path)


def fetch_script(directory: Path) -> Path:
    """Get the script from the source package that the installed QEMU was built from; raises CalledProcessError."""

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=500, check=True)
        return done.stdout

    options = [
        *("-o", f"Dir::Etc::SourceList={directory / 'sources.list'}"),
        *("-o", f"Dir::Etc::SourceParts={directory / 'sources.list.d'}"),
        *("-o", f"Dir::State::Lists={directory / 'lists'}"),
        *("-o", f"Dir::Cache={directory / 'cache'}"),
        *("-o", f"APT::Sandbox::User={'root' if os.geteuid() == 0 else ''}"),
    ]
    for name in ("lists/partial", "cache/archives/partial", "sources.list.d"):
        (directory / name).mkdir(parents=True)
    for path in filter(Path.is_file, SOURCES):
        if path.suffix == ".sources":
            text = re.sub(r"(?m)^Types:.*$", "Types: deb-src", path.read_text())
            (directory / "sources.list.d" / path.name).write_text(text)
        else:
            (directory / path.name).write_text(re.sub(r"(?m)^deb\s", "deb-src ", path.read_text()))
    version = run("dpkg-query", "-W", "-f", "${source:Version}", "qemu-system-misc")
    run("apt-get", *options, "-qq", "update")
    run("apt-get", *options, "-qq", "source", "--download-only", "--only-source", f"qemu={version}")
    with tarfile.open(next(directory.glob("*.orig.tar.*"))) as archive:
        for member in archive:
            if member.name.endswith(f"/{SCRIPT}"):
                content = archive.extractfile(member)
                assert content is not None
                path = directory / Path(SCRIPT).name
                path.write_bytes(content.read())
                return path
    raise FileNotFoundError(SCRIPT)


@pytest.fixture(scope="session")
def analyze(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Runs the script on a stream: what it prints, parsed."""
    if source := os.environ.get("MINI_QEMU_QEMU_SOURCE"):
        script = Path(source) / SCRIPT
    else:
        try:
            script = fetch_script(tmp_path_factory.mktemp("source"))
        except (OSError, StopIteration, subprocess.SubprocessError) as error:
            said = getattr(error, "stderr", "") or str(error)
            hint = f"unpack QEMU's source and set MINI_QEMU_QEMU_SOURCE to its directory ({' '.join(said.split())})"
            pytest.skip(f"no {SCRIPT}: {hint}")

    def run(path: Path, *options: str) -> Any:
        command = [sys.executable, str(script), "-f", str(path), *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run
