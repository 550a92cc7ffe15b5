"""The rules of conftest.py about tests that are skipped, tried on made-up tests in a pytest of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SUITE = {
    "test_marked.py": """
        import pytest
        @pytest.mark.qemu
        def test_needs_everything(): pass
        @pytest.mark.qemu("gdb-multiarch")
        def test_needs_one(): pass
        def test_needs_nothing(): pass
    """,
    "test_whole_file.py": """
        import pytest
        pytest.skip("not on this system", allow_module_level=True)
    """,
    "test_expected.py": """
        import pytest
        @pytest.mark.xfail(reason="known")
        def test_fails_as_expected(): assert False
    """,
}


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    (tmp_path / "conftest.py").write_text(Path(__file__).with_name("conftest.py").read_text())
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = qemu\n")
    for name, text in SUITE.items():
        lines = text.splitlines()
        (tmp_path / name).write_text("\n".join(line[8:] for line in lines))
    return tmp_path


def outcome(suite: Path, **environment: str) -> tuple[int, str]:
    """Exit status and output of pytest where no program is on PATH."""
    kept = {name: value for name, value in os.environ.items() if name not in ("CI", "FORBID_SKIPS")}
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", str(suite)]
    result = subprocess.run(
        command, env=kept | {"PATH": str(suite)} | environment, capture_output=True, text=True, timeout=60
    )
    return result.returncode, result.stdout


def test_missing_packages_are_named_and_the_rest_runs(suite: Path) -> None:
    status, said = outcome(suite)
    assert status == 0
    assert "1 passed, 3 skipped, 1 xfailed" in said
    assert "not installed here: apt install gdb-multiarch\n" in said
    assert "apt install device-tree-compiler gcc-riscv64-unknown-elf gdb-multiarch" in said


@pytest.mark.parametrize("name", ["CI", "FORBID_SKIPS"])
def test_where_skips_are_forbidden_each_is_an_error(suite: Path, name: str) -> None:
    status, said = outcome(suite, **{name: "true"})
    assert status != 0
    assert "skipped" not in said.splitlines()[-1]
    assert "no test may be skipped here: Skipped: not on this system" in said


def test_skips_in_single_tests_are_errors_too(suite: Path) -> None:
    (suite / "test_whole_file.py").unlink()
    status, said = outcome(suite, FORBID_SKIPS="1")
    assert status == 1
    assert "1 passed, 1 xfailed, 2 errors" in said
    assert "no test may be skipped here: Skipped: not installed here: apt install gdb-multiarch" in said
