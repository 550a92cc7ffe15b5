"""The walls between the packages: who may import whom, read from the import statements themselves."""

from __future__ import annotations

import ast
import graphlib
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "emulator"

LAYERS = (
    (0, ("core", "version")),
    (1, ("migration",)),
    (1, ("conditions", "events", "kicker", "options", "runstate", "serial", "signals", "sizes", "timekeeper")),
    (2, ("hw", "cpu")),
    (2, ("testing",)),
    (3, ("chardev",)),
    (4, ("boards",)),
    (4, ("cpuview", "machinestate", "qemupeer", "runner")),
    (4, ("transfer",)),
    (4, ("livemigration",)),
    (4, ("machine",)),
    (5, ("monitor",)),
    (5, ("inspectiontext",)),
    (5, ("inspection",)),
    (5, ("console",)),
    (6, ("sidebyside",)),
    (6, ("demo",)),
    (6, ("convert", "snapshotcli")),
    (6, ("cli",)),
    (6, ("__init__", "__main__")),
)
"""From the ground up: the layer's number, and what is in it. A file imports its own package and earlier rows only, not
its neighbours in the row. docs/layout.md says the same in words."""

NUMPY_USERS = """
comparison difference dirty iovec mappedfile outgoing pagecache pagemap pages ram ramsend tls transports
userfault xbzrle
"""
LIBRARIES = {
    "capstone": {"cpu/disasm.py"},
    "click": {"cli.py"},
    "elftools": {"boards/images.py"},
    "fdt": {"boards/devicetree.py"},
    "prompt_toolkit": {"monitor/terminal.py"},
    "numpy": {f"migration/{name}.py" for name in NUMPY_USERS.split()},
    "rich": {"demo.py", "inspectiontext.py", "sidebyside.py", "snapshotcli.py"},
    "zstandard": {"boards/packed.py"},
    "xxhash": {"migration/mappedfile.py", "migration/seal.py"},
}
"""The only files that import each library. None imports Unicorn's binding: libunicorn.py loads its shared library."""

DISTRIBUTIONS = {"elftools": "pyelftools"}
"""Libraries whose distribution has another name."""

FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


def imported(*nodes: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """The import statements that can be carried out, also those inside functions; not those for type checkers."""
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            yield from imported(*node.orelse)
        else:
            yield from imported(*ast.iter_child_nodes(node))


def modules(source: str) -> set[str]:
    """Dotted names of all modules that a source text imports."""
    found: set[str] = set()
    for statement in imported(ast.parse(source)):
        if isinstance(statement, ast.Import):
            found |= {alias.name for alias in statement.names}
            continue
        assert statement.level == 0, "relative imports hide which wall they cross"
        assert statement.module is not None
        for alias in statement.names:
            name = f"{statement.module}.{alias.name}"
            found.add(name if file_of(name) else statement.module)
    return found


def file_of(module: str) -> str | None:
    """The file of one of our modules, relative to the package; None if there is no such module."""
    path = ROOT.joinpath(*module.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_relative_to(PACKAGE) and candidate.is_file():
            return candidate.relative_to(PACKAGE).as_posix()
    return None


def unit(file: str) -> str:
    """The package or the single module that a file belongs to, as `LAYERS` names it."""
    return file.partition("/")[0].removesuffix(".py")


def row(file: str) -> int:
    return next(row for row, (_, units) in enumerate(LAYERS) if unit(file) in units)


def is_below(imported_file: str, file: str) -> bool:
    """Whether the walls let `file` import `imported_file`."""
    return unit(imported_file) == unit(file) or row(imported_file) < row(file)


USES = {file: modules((PACKAGE / file).read_text()) for file in FILES}
OURS = {file: {found for module in USES[file] if (found := file_of(module))} for file in FILES}


@pytest.mark.parametrize("file", FILES)
def test_no_file_imports_upwards(file: str) -> None:
    assert [found for found in sorted(OURS[file]) if not is_below(found, file)] == []


def test_every_file_has_a_layer_and_every_name_in_the_table_a_file() -> None:
    named = [name for _, units in LAYERS for name in units]
    assert sorted(named) == sorted({unit(file) for file in FILES})


@pytest.mark.parametrize(("number", "name"), [(number, name) for number, units in LAYERS for name in units])
def test_the_documents_give_the_same_numbers(number: int, name: str) -> None:
    layout = (ROOT / "docs" / "layout.md").read_text()
    assert re.search(rf"\b{name}(/|\.py).* \[{number}\] ", layout)
    init = PACKAGE / name / "__init__.py"
    assert not init.exists() or init.read_text().startswith(f'"""Layer {number}: ')


def test_no_import_goes_in_circles() -> None:
    graphlib.TopologicalSorter(OURS).prepare()


def test_no_chip_imports_another() -> None:
    chips = {file for file in FILES if unit(file) == "hw"} - {"hw/fifo8.py"}  # a part of chips
    assert {file: OURS[file] & chips for file in chips if OURS[file] & chips} == {}


def test_only_the_engine_and_its_registers_call_unicorn() -> None:
    assert {file for file in FILES if "cpu/libunicorn.py" in OURS[file]} == {"cpu/engine.py", "cpu/csrs.py"}


def test_each_library_is_imported_where_the_table_says() -> None:
    users: dict[str, set[str]] = {}
    for file, names in USES.items():
        for library in {name.partition(".")[0] for name in names} - {"emulator", *sys.stdlib_module_names}:
            users.setdefault(library, set()).add(file)
    assert users == LIBRARIES


def test_every_imported_library_is_declared() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {requirement.partition(">")[0].strip() for requirement in declared}
    assert {DISTRIBUTIONS.get(library, library) for library in LIBRARIES} <= names


# The test's own eyes


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import emulator.core.irq", {"emulator.core.irq"}),
        ("from emulator.core import irq, bits", {"emulator.core.irq", "emulator.core.bits"}),
        ("from emulator.machine import Machine", {"emulator.machine"}),
        ("from emulator import Machine", {"emulator"}),
        ("def lazily():\n    from emulator.machine import Machine", {"emulator.machine"}),
        ("try:\n    import rich.text\nexcept ImportError:\n    pass", {"rich.text"}),
        ("if TYPE_CHECKING:\n    from emulator.machine import Machine\nelse:\n    import click", {"click"}),
    ],
)
def test_imports_are_found_wherever_they_stand(source: str, found: set[str]) -> None:
    assert modules(source) == found


@pytest.mark.parametrize(
    ("file", "other", "allowed"),
    [
        ("machine.py", "boards/virt.py", True),
        ("boards/virt.py", "machine.py", False),
        ("hw/sifive_plic.py", "cpu/vcpu.py", False),
        ("core/bus.py", "core/memory.py", True),
        ("monitor/hmp.py", "__init__.py", False),
    ],
)
def test_walls(file: str, other: str, allowed: bool) -> None:
    assert is_below(other, file) is allowed
