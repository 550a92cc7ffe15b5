"""The comparison with QEMU runs from end to end; what it measures is not judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
@pytest.mark.qemu("qemu-system-misc", "qemu-utils")
def test_figures_of_both_as_json() -> None:
    command = [sys.executable, "bench/compare.py", "--rounds=1", "--starts=1", "--idle=0.1", "--json"]
    command += ["--snapshots=1", "--migrations=1", "--ram=32"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400, check=True)
    figures = json.loads(result.stdout)
    assert set(figures["kernels_ms"]) == set(figures["start_ms"]) == {"mini-qemu", "qemu"}
    assert set(figures["migrations"]["mini-qemu"]) > set(figures["migrations"]["qemu"])
    assert len(figures["kernels_ms"]["mini-qemu"]) == len(figures["kernels_ms"]["qemu"]) == 12
    assert figures["compute_ratio"] > 0
    assert set(figures["snapshots_ms"]["mini-qemu"]) == set(figures["snapshots_ms"]["qemu"])
    assert len(figures["snapshots_ms"]["qemu"]) == 3
    assert set(figures["device_state_ms"]) == {"device state saved", "device state loaded"}
