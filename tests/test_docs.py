"""The documents keep their promises: examples run, links lead somewhere, nothing that exists is left out."""

from __future__ import annotations

import doctest
import re
import tomllib
from pathlib import Path

import click
import pytest

import emulator.machine
from emulator import Serial
from emulator.cli import cli
from emulator.core.log import ITEMS
from emulator.monitor.commands import HMP_COMMANDS
from emulator.monitor.qmp import QMP_COMMANDS

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    path.relative_to(ROOT).as_posix(): path for path in [*ROOT.glob("*.md"), *sorted((ROOT / "docs").glob("*.md"))]
}
WITH_EXAMPLES = ("README.md", "docs/python-api.md")


def text(page: str) -> str:
    return (ROOT / page).read_text()


def examples(page: str) -> str:
    """A page with all lines blanked but those of its Python sessions, so that line numbers stay right."""
    kept, inside = [], False
    for line in text(page).splitlines():
        inside = line == "```pycon" or (inside and line != "```")
        kept.append(line if inside and not line.startswith("```") else "")
    return "\n".join(kept)


def run(session: doctest.DocTest) -> None:
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    result = runner.run(session, out=said.append)
    assert result.attempted > 0
    assert result.failed == 0, "".join(said)


@pytest.fixture
def in_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the examples find firmware/prebuilt."""
    monkeypatch.chdir(ROOT)


@pytest.mark.usefixtures("in_root")
@pytest.mark.parametrize("page", WITH_EXAMPLES)
def test_examples_run_as_printed(page: str) -> None:
    run(doctest.DocTestParser().get_doctest(examples(page), {}, page, page, 0))


@pytest.mark.usefixtures("in_root")
def test_examples_in_docstrings_run_as_printed() -> None:
    sessions = doctest.DocTestFinder().find(emulator.machine, extraglobs={"Serial": Serial})
    for session in sessions:
        if session.examples:
            run(session)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", text(page))
    assert [target for target in targets if not (PAGES[page].parent / target).exists()] == []


def test_the_index_links_to_every_page() -> None:
    linked = set(re.findall(r"\]\(([\w-]+\.md)\)", text("docs/index.md")))
    assert linked == {path.name for path in (ROOT / "docs").glob("*.md")} - {"index.md"}


def all_commands(group: click.Group, name: str) -> dict[str, click.Command]:
    """Every command of a group and of the groups in it, by what has to be typed."""
    found = {}
    for word, command in group.commands.items():
        nested = all_commands(command, f"{name} {word}") if isinstance(command, click.Group) else {}
        found |= nested or {f"{name} {word}": command}
    return found


COMMANDS_OF_CLI = all_commands(cli, "mini-qemu")


@pytest.mark.parametrize("command", sorted(COMMANDS_OF_CLI))
def test_every_command_and_option_is_explained(command: str) -> None:
    page = text("docs/command-line.md")
    assert command in page
    for parameter in COMMANDS_OF_CLI[command].params:
        if isinstance(parameter, click.Option):
            assert any(re.search(rf"`{spelling}[ `]", page) for spelling in parameter.opts), parameter.opts


def test_every_monitor_command_and_log_item_is_explained() -> None:
    page = text("docs/command-line.md")
    assert [command.names[0] for command in HMP_COMMANDS if f"`{command.names[0]}" not in page] == []
    assert [item for item in ITEMS if f"`{item}`" not in page] == []


def test_every_command_of_qmp_is_documented() -> None:
    page = text("docs/qmp.md")
    assert [name for name in QMP_COMMANDS if f"`{name}`" not in page] == []


def test_the_layout_names_every_file() -> None:
    page = text("docs/layout.md")
    files = [path for path in (ROOT / "emulator").rglob("*.py") if path.name != "__init__.py"]
    assert [path.name for path in files if not re.search(rf"\b{path.name}\b", page)] == []


def test_every_dependency_has_its_reason() -> None:
    page = text("docs/dependencies.md")
    project = tomllib.loads(text("pyproject.toml"))["project"]
    requirements = project["dependencies"] + project["optional-dependencies"]["dev"]
    names = [re.split(r"[<>=~]", requirement)[0] for requirement in requirements]
    assert [name for name in names if f"| {name} |" not in page] == []
