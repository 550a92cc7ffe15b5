"""Fetch a riscv64 Linux kernel and BusyBox from Debian's archive, with apt, installing nothing.

python linux/fetch.py DIRECTORY [--suite SUITE]

Leaves `vmlinuz` and `busybox` in the directory, and `versions`, which says what they are. apt gets configuration, lists
and cache of its own, so the system's stay as they are, and its own architecture does not matter; what has been fetched
is checked against Debian's keys. The archive is the mirror from which the system itself is installed.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

SUITES = ("sid", "trixie")
"""Tried in this order; Debian 12 has no riscv64."""
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
SYSTEM_SOURCES = ("sources.list", "sources.list.d/*.sources", "sources.list.d/*.list")
MIRROR = re.compile(r"(?m)^(?:URIs:|deb\s+(?:\[.*?\]\s)?)\s*(\S+/debian/?)(?:\s|$)")
META_PACKAGE = "linux-image-riscv64"
KERNEL_PACKAGE = re.compile(r"linux-(?:binary|image)-\d\S*-riscv64")
BUSYBOX = "busybox-static"


class FetchError(Exception):
    """Why there is no Linux."""


class Apt:
    """apt for one suite's riscv64 packages, with all that it keeps below `directory`."""

    def __init__(self, directory: Path, suite: str) -> None:
        self._directory = directory
        for name in ("lists/partial", "cache/archives/partial", "parts"):
            (directory / name).mkdir(parents=True)
        (directory / "status").touch()
        (directory / "parts/debian.sources").write_text(
            f"Types: deb\nURIs: {mirror()}\nSuites: {suite}\nComponents: main\nSigned-By: {KEYRING}\n"
        )
        settings = {
            "APT::Architecture": "riscv64",
            "APT::Architectures": "riscv64",
            "APT::Sandbox::User": "root" if os.geteuid() == 0 else "",
            "APT::Update::Error-Mode": "any",
            "Acquire::Languages": "none",
            "Dir::Cache": directory / "cache",
            "Dir::Etc::SourceList": "/dev/null",
            "Dir::Etc::SourceParts": directory / "parts",
            "Dir::State::Lists": directory / "lists",
            "Dir::State::status": directory / "status",
        }
        self._options = [argument for name, value in settings.items() for argument in ("-o", f"{name}={value}")]
        self._run("apt-get", "-qq", "update")

    def dependencies(self, package: str) -> list[str]:
        """What a package needs, by name."""
        said = self._run("apt-cache", "depends", "--important", package)
        return re.findall(r"(?m)^ *\|?Depends: (\S+)", said)

    def unpack(self, package: str) -> Path:
        """The directory with a package's files; their version is noted by `versions`."""
        self._run("apt-get", "-qq", "download", package)
        (archive,) = self._directory.glob(f"{package}_*.deb")
        root = self._directory / package
        self._run("dpkg-deb", "-x", str(archive), str(root))
        return root

    @property
    def versions(self) -> list[str]:
        """Name and version of every package that has been unpacked."""
        return sorted(" ".join(path.name.replace("%3a", ":").split("_")[:2]) for path in self._directory.glob("*.deb"))

    def _run(self, program: str, *arguments: str) -> str:
        options = self._options if program.startswith("apt") else []
        command = [program, *options, *arguments]
        try:
            done = subprocess.run(command, cwd=self._directory, capture_output=True, text=True, check=True)
        except FileNotFoundError:
            raise FetchError(f"{program} is missing: this needs Debian, or a system with its tools") from None
        except subprocess.CalledProcessError as error:
            raise FetchError(f"{program} {' '.join(arguments)}: {' '.join(error.stderr.split())}") from error
        return done.stdout


def mirror() -> str:
    """The address of Debian's archive, as the system's own apt knows it."""
    for pattern in SYSTEM_SOURCES:
        for path in sorted(Path("/etc/apt").glob(pattern)):
            if found := MIRROR.search(path.read_text()):
                return found[1]
    raise FetchError("no mirror of Debian's archive is named in /etc/apt")


def kernel_package(apt: Apt) -> str:
    """The package with the newest kernel: what the package without a version leads to, over one or two steps."""
    found = META_PACKAGE
    while further := [name for name in apt.dependencies(found) if KERNEL_PACKAGE.fullmatch(name)]:
        (found,) = further
    if found == META_PACKAGE:
        raise FetchError(f"{META_PACKAGE} names no kernel")
    return found


def kernels(root: Path) -> Iterator[Path]:
    """The kernel in an unpacked package: where it is depends on Debian's version."""
    yield from root.glob("boot/vmlinu[xz]-*")
    yield from root.glob("usr/lib/modules/*/vmlinu[xz]")


def fetch(directory: Path, suite: str) -> None:
    """Put a kernel and BusyBox into `directory`; raises FetchError."""
    with tempfile.TemporaryDirectory(prefix="fetch-", dir=directory) as scratch:
        apt = Apt(Path(scratch), suite)
        kernel = next(kernels(apt.unpack(kernel_package(apt))), None)
        busybox = next(apt.unpack(BUSYBOX).glob("**/bin/busybox"), None)
        if kernel is None or busybox is None:
            raise FetchError("the packages do not hold what their names say")
        (directory / "versions").write_text("\n".join(apt.versions) + "\n")
        busybox.rename(directory / "busybox")
        kernel.rename(directory / "vmlinuz")


def main() -> int:
    """Try one suite after the other; the exit status."""
    parser = argparse.ArgumentParser(description="Fetch a riscv64 Linux from Debian's archive; nothing is installed.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--suite", action="append", help=f"which Debian [{', then '.join(SUITES)}]")
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    for suite in options.suite or SUITES:
        try:
            fetch(options.directory.resolve(), suite)
        except FetchError as error:
            print(f"{suite}: {error}", file=sys.stderr)
        else:
            print((options.directory / "versions").read_text(), end="", file=sys.stderr)
            return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
