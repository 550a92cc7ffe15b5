"""The pieces of `make linux` that need neither Debian's archive nor a guest."""

from __future__ import annotations

import fetch
import initramfs
import pytest


def test_an_entry_of_an_archive_has_the_kernels_format() -> None:
    header = "070701" + "".join(f"{field:08X}" for field in (3, 0o100644, 0, 0, 1, 0, 5, 0, 0, 0, 0, 2, 0))
    assert initramfs.entry("f", 0o100644, b"hello", number=3) == header.encode() + b"f\0hello\0\0\0"


def test_every_file_of_an_archive_begins_at_a_multiple_of_four() -> None:
    archive = initramfs.archive([("a" * length, 0o100644, b"x" * length) for length in range(1, 9)])
    assert len(archive) % 4 == 0
    assert [at % 4 for at in range(len(archive)) if archive.startswith(initramfs.MAGIC, at)] == [0] * 9


@pytest.mark.parametrize(
    "line",
    ["URIs: {}", "deb {} bookworm main", "deb [signed-by=/x.gpg arch=amd64] {} bookworm main non-free-firmware"],
)
def test_the_mirror_is_found_in_both_forms_of_sources(line: str) -> None:
    mirror = "http://archive.example/debian"
    found = fetch.MIRROR.search("# comment\n" + line.format(mirror) + "\n")
    assert found
    assert found[1] == mirror


@pytest.mark.parametrize("line", ["URIs: http://a.example/debian-security", "deb-src http://a.example/debian b c"])
def test_other_archives_are_no_mirror(line: str) -> None:
    assert not fetch.MIRROR.search(line)


class FakeApt:
    """Knows what packages need."""

    def __init__(self, needs: dict[str, list[str]]) -> None:
        self._needs = needs

    def dependencies(self, package: str) -> list[str]:
        return self._needs.get(package, [])


@pytest.mark.parametrize(
    ("needs", "kernel"),
    [
        (
            {
                "linux-image-riscv64": ["linux-base-riscv64", "linux-image-7.2.13+deb14-riscv64"],
                "linux-image-7.2.13+deb14-riscv64": ["linux-binary-7.2.13+deb14-riscv64", "linux-modules-7.2.13+deb14"],
            },
            "linux-binary-7.2.13+deb14-riscv64",
        ),
        (
            {
                "linux-image-riscv64": ["linux-image-6.12.48+deb13-riscv64"],
                "linux-image-6.12.48+deb13-riscv64": ["kmod", "linux-base"],
            },
            "linux-image-6.12.48+deb13-riscv64",
        ),
    ],
)
def test_the_kernel_is_found_through_what_packages_need(needs: dict[str, list[str]], kernel: str) -> None:
    assert fetch.kernel_package(FakeApt(needs)) == kernel  # type: ignore[arg-type]


def test_an_index_without_a_kernel_is_told() -> None:
    with pytest.raises(fetch.FetchError, match="names no kernel"):
        fetch.kernel_package(FakeApt({}))  # type: ignore[arg-type]
