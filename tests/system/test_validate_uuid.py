"""Capability validate-uuid: a machine loads only what comes for it; the cases are those of QEMU's migration tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from emulator import Machine
from emulator.hw.fw_cfg import Key
from emulator.migration.errors import FieldMismatchError
from emulator.migration.examine import examine
from emulator.migration.files import mapped
from emulator.migration.status import Status
from emulator.runstate import RunState

PATIENCE_SECONDS = 60
ONE = "11111111-1111-1111-1111-111111111111"
OTHER = "22222222-2222-2222-2222-222222222222"


def moved(source_uuid: str, destination_uuid: str, *, validate: bool = True) -> tuple[str | None, RunState]:
    """Why the guest could not move, and what the source does in the end."""
    with (
        Machine("virt", ram="16M", uuid=source_uuid) as source,
        Machine("virt", ram="16M", uuid=destination_uuid) as destination,
    ):
        source.power_on()
        source.migration.settings.enable({"validate-uuid": validate})
        source.migration.migrate(destination.migration.listen("tcp:127.0.0.1:0"))
        status = source.migration.wait(PATIENCE_SECONDS)
        assert status in (Status.COMPLETED, Status.FAILED)
        error = source.migration.progress.error
        if status is Status.FAILED:
            assert error
        return error, source.status


@pytest.mark.parametrize(
    ("source", "destination", "validate"),
    [(ONE, ONE, True), ("", ONE, True), (ONE, "", True), (ONE, OTHER, False)],
    ids=["the same", "source not set", "destination not set", "not to be validated"],
)
def test_validate_uuid(source: str, destination: str, validate: bool) -> None:
    assert moved(source, destination, validate=validate) == (None, RunState.POSTMIGRATE)


def test_validate_uuid_error() -> None:
    error, state = moved(ONE, OTHER)
    assert error is not None
    assert f"configuration uuid at byte 0x39: expected {OTHER} (see -uuid), got {ONE}" in error
    assert "\n" not in error
    assert state is RunState.PRELAUNCH


@pytest.fixture
def stream(tmp_path: Path) -> Path:
    path = tmp_path / "stream"
    with Machine("virt", ram="16M", uuid=ONE) as machine:
        machine.power_on()
        machine.migration.settings.enable({"validate-uuid": True})
        machine.migration.migrate(f"file:{path}")
        assert machine.migration.wait(PATIENCE_SECONDS) is Status.COMPLETED
    return path


def test_a_file_for_another_machine_is_refused(stream: Path) -> None:
    with mapped(stream) as (data, _):
        configuration = examine(data).configuration
    assert configuration is not None
    assert configuration.uuid == b"\x11" * 16
    with Machine("virt", ram="16M", uuid=ONE) as machine:
        machine.load(stream)
    with Machine("virt", ram="16M", uuid=OTHER) as machine, pytest.raises(FieldMismatchError) as caught:
        machine.load(stream)
    assert f"expected {OTHER} (see -uuid), got {ONE}" in str(caught.value)


def test_firmware_finds_the_uuid() -> None:
    selector, data = 0x1010_0008, 0x1010_0000
    with Machine("virt", ram="16M", uuid=ONE) as machine:
        machine.power_on()

        def read() -> bytes:
            machine.bus.store(selector, 2, int.from_bytes(Key.UUID.to_bytes(2, "big"), "little"))
            return bytes(machine.bus.load(data, 1) for _ in range(16))

        assert machine.call(read) == b"\x11" * 16
        assert machine.uuid == ONE
