"""Fixtures of guests that run: in this process, or in those of mini-qemu and QEMU, which end with the test."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from processes import PATIENCE_SECONDS, QEMU, TOY, Emulator
from qemu10 import qemu10_command, unpacked

from emulator import Machine, Serial

Start = Callable[..., Emulator]


@pytest.fixture
def running_toy() -> Iterator[Machine]:
    """A machine of this process whose toy guest is at its prompt and runs."""
    with Machine("virt", ram="16M", kernel=TOY) as machine:
        machine.run(until=Serial("toy> "), timeout=PATIENCE_SECONDS)
        machine.cont()
        yield machine


@pytest.fixture
def empty_machine() -> Iterator[Machine]:
    """One like it without a guest, for that to come to."""
    with Machine("virt", ram="16M") as machine:
        yield machine


@pytest.fixture
def mini_qemu(tmp_path: Path) -> Iterator[Start]:
    """Starts `mini-qemu run`, or another program like it, with these options."""
    emulators: list[Emulator] = []

    def start(*options: str, **how: Any) -> Emulator:
        emulators.append(Emulator(tmp_path / f"qmp{len(emulators)}", *options, **how))
        return emulators[-1]

    yield start
    for emulator in emulators:
        emulator.close()


@pytest.fixture
def qemu_7_2(mini_qemu: Start) -> Start:
    """Starts the installed QEMU."""
    return partial(mini_qemu, program=QEMU)


@pytest.fixture(scope="session")
def qemu10(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory in which QEMU 10 is unpacked."""
    return unpacked(tmp_path_factory.mktemp("qemu10"))


@pytest.fixture
def qemu_10_0(mini_qemu: Start, qemu10: Path) -> Start:
    """Starts QEMU 10, which must not load the modules of the installed one."""
    return partial(mini_qemu, program=qemu10_command(qemu10), env={**os.environ, "QEMU_MODULE_DIR": "/nonexistent"})
