from __future__ import annotations

import logging

import pytest

from emulator.core import log


@pytest.fixture
def quiet_afterwards():
    yield
    root = logging.getLogger("mini-qemu")
    for handler in root.handlers[1:]:
        handler.close()
        root.removeHandler(handler)
    for item in log.ITEMS:
        log.logger(item).setLevel(logging.CRITICAL + 1)


@pytest.mark.usefixtures("quiet_afterwards")
def test_items_are_silent_until_they_are_asked_for(tmp_path) -> None:
    log.unimp.debug("before")
    log.enable(["unimp"], str(tmp_path / "log"))
    log.unimp.debug("frobnication of %d", 3)
    log.guest_errors.debug("not asked for")
    assert (tmp_path / "log").read_text() == "frobnication of 3\n"
    assert log.enabled(log.unimp)
    assert not log.enabled(log.guest_errors)


@pytest.mark.usefixtures("quiet_afterwards")
def test_a_disk_that_fills_up_ends_the_log_with_one_line(capsys) -> None:
    log.enable(["unimp"], "/dev/full")
    log.unimp.debug("lost")
    log.unimp.debug("not even tried")
    assert capsys.readouterr().err == "mini-qemu: log: [Errno 28] No space left on device; no more is logged\n"
    assert not log.enabled(log.unimp)


@pytest.mark.usefixtures("quiet_afterwards")
def test_a_log_that_cannot_be_written_is_an_error(tmp_path) -> None:
    with pytest.raises(OSError, match="No such file"):
        log.enable(["unimp"], str(tmp_path / "missing" / "log"))
