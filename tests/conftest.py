"""What all tests share: which of them need Debian packages, and whether any may be skipped.

`@pytest.mark.qemu` skips a test unless all of `PACKAGES` is there; `@pytest.mark.qemu("opensbi")` unless that one is.
`@pytest.mark.linux` are tests that boot Linux, which has to be fetched: they run only when `-m linux` asks for them.
With `CI=true` or `FORBID_SKIPS=1` in the environment a skip is an error: nothing may go untested unnoticed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator
from pathlib import Path
from typing import TypeVar

import pytest

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)

PACKAGES = {
    "device-tree-compiler": "dtc",
    "gcc-riscv64-unknown-elf": "riscv64-unknown-elf-gcc",
    "gdb-multiarch": "gdb-multiarch",
    "opensbi": "/usr/lib/riscv64-linux-gnu/opensbi/generic/fw_dynamic.bin",
    "qemu-system-misc": "qemu-system-riscv64",
    "qemu-utils": "qemu-img",
    "u-boot-qemu": "/usr/lib/u-boot/qemu-riscv64_smode/u-boot.bin",
}
"""Debian package -> a program or a file by which its presence shows."""


def _is_installed(package: str) -> bool:
    sign = PACKAGES[package]
    return Path(sign).exists() if sign.startswith("/") else shutil.which(sign) is not None


def _skips_forbidden() -> bool:
    return os.environ.get("CI") == "true" or os.environ.get("FORBID_SKIPS", "0") not in ("", "0")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "linux" not in config.option.markexpr:
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("linux")])
        items[:] = [item for item in items if not item.get_closest_marker("linux")]
    missing = {package for package in PACKAGES if not _is_installed(package)}
    for item in items:
        needed = {package for mark in item.iter_markers("qemu") for package in mark.args or PACKAGES}
        if needed & missing:
            names = " ".join(sorted(needed & missing))
            item.add_marker(pytest.mark.skip(reason=f"not installed here: apt install {names}"))


def _refuse_skip(report: Report) -> Report:
    if report.skipped and not hasattr(report, "wasxfail") and _skips_forbidden():
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"no test may be skipped here: {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return _refuse_skip((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return _refuse_skip((yield))
