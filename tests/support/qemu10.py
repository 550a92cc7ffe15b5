"""A QEMU 10 beside the installed one: from MINI_QEMU_QEMU10, or from Debian's backports; nothing is installed.

apt fetches it with a list of sources of its own. Needs Debian 12.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

SOURCES = Path("/etc/apt/sources.list.d/debian.sources")
PACKAGES = ("qemu-system-riscv", "qemu-system-common", "qemu-system-data")


def fetch(directory: Path) -> Path:
    """Unpack QEMU 10 from bookworm-backports; raises OSError or CalledProcessError."""

    def run(*command: str) -> None:
        subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=500, check=True)

    for name in ("lists/partial", "cache/archives/partial", "sources.list.d", "root"):
        (directory / name).mkdir(parents=True)
    backports = re.sub(r"(?m)^Suites:.*$", "Suites: bookworm-backports", SOURCES.read_text().split("\n\n")[0]) + "\n"
    (directory / "sources.list.d" / SOURCES.name).write_text(backports)
    options = [
        *("-o", "Dir::Etc::SourceList=/dev/null"),
        *("-o", f"Dir::Etc::SourceParts={directory / 'sources.list.d'}"),
        *("-o", f"Dir::State::Lists={directory / 'lists'}"),
        *("-o", f"Dir::Cache={directory / 'cache'}"),
        *("-o", f"APT::Sandbox::User={'root' if os.geteuid() == 0 else ''}"),
    ]
    run("apt-get", *options, "-qq", "update")
    run("apt-get", *options, "-qq", "download", *(f"{package}/bookworm-backports" for package in PACKAGES))
    for package in directory.glob("*.deb"):
        run("dpkg", "-x", str(package), str(directory / "root"))
    return directory / "root"


def qemu10_command(root: Path) -> list[str]:
    """What runs the QEMU that is unpacked in `root`."""
    return [str(root / "usr/bin/qemu-system-riscv64"), "-L", str(root / "usr/share/qemu")]


def unpacked(directory: Path) -> Path:
    """Where QEMU 10 is unpacked; skips the test if it cannot be had."""
    if given := os.environ.get("MINI_QEMU_QEMU10"):
        return Path(given)
    try:
        return fetch(directory)
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", "") or str(error)
        pytest.skip(f"no QEMU 10: unpack it and set MINI_QEMU_QEMU10 to its directory ({' '.join(said.split())})")
