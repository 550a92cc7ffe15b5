"""`mini-qemu demo`: piped, as a script would see it."""

from __future__ import annotations

import pytest

from emulator import demo


def test_the_demo_shows_the_console_and_ends_with_the_guests_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.run_demo() == 0
    shown = capsys.readouterr().out
    for line in ("toy> version", "toy> count", "count 3", "toy> crc", "toy> wfi", "toy> poweroff"):
        assert f"\n{line}\n" in shown
    assert ", the same." in shown
    assert "\x1b" not in shown
    assert "\r" not in shown


def test_a_guest_that_stays_silent_is_reported(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "PROMPT", "no such prompt")
    monkeypatch.setattr(demo, "PATIENCE_SECONDS", 0.2)
    assert demo.run_demo() == 1
    assert "mini-qemu: the guest did not reach Serial(b'no such prompt')" in capsys.readouterr().out


def test_the_guest_is_the_prebuilt_one() -> None:
    assert demo.TOY.resolve().parts[-3:] == ("firmware", "prebuilt", "toy.elf")
