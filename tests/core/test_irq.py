from __future__ import annotations

import pytest

from emulator.core.irq import IrqLine


def test_the_sink_hears_edges_only() -> None:
    heard: list[bool] = []
    line = IrqLine()
    line.connect(heard.append)
    for level in (False, True, True, False):
        line.set(level)
    assert heard == [True, False]


def test_restoring_a_level_makes_no_edge() -> None:
    heard: list[bool] = []
    line = IrqLine()
    line.connect(heard.append)
    line.restore_level(True)
    assert (line.level, heard) == (True, [])
    line.set(True)
    assert heard == []
    line.set(False)
    assert heard == [False]


def test_a_line_has_one_sink() -> None:
    line = IrqLine("intA")
    line.connect(lambda _level: None)
    with pytest.raises(ValueError, match="intA is already connected"):
        line.connect(lambda _level: None)
