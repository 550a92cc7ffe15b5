"""The comparison of Linux here and in QEMU runs from end to end; what it measures is not judged here."""

from __future__ import annotations

import json
import subprocess
import sys

import linuxguest
import pytest

pytestmark = [pytest.mark.linux, pytest.mark.timeout(300), pytest.mark.qemu("qemu-system-misc")]


def test_figures_of_both_as_json() -> None:
    command = [sys.executable, "bench/linux.py", "--rounds=1", "--idle=0.1", "--json"]
    result = subprocess.run(command, cwd=linuxguest.ROOT, capture_output=True, text=True, check=True)
    figures = json.loads(result.stdout)
    assert set(figures) == {"mini-qemu", "qemu"}
    assert figures["mini-qemu"].keys() == figures["qemu"].keys()
    assert all(figure > 0 for each in figures.values() for figure in each.values())
