"""Reports of migrations: what is in them, and that the page needs nothing else."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from emulator import Machine
from emulator.core.errors import ConfigError, FileError
from emulator.migration.plots import Axis, nice_step
from emulator.migration.report import SAMPLE_LIMIT, Recorder, report, report_path
from emulator.migration.reportpage import MIB, page, rates
from emulator.migration.status import Figures, Pass, Progress, Status, XbzrleFigures

TOY = Path(__file__).parents[2] / "firmware/prebuilt/toy.elf"
VOID = {"meta", "rect", "line", "polygon"}


class Page(HTMLParser):
    """Checks that every element is closed, and collects text and attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def finished(**changes: object) -> Progress:
    progress = Progress()
    progress.begin()
    figures = progress.figures
    figures.total, figures.transferred, figures.downtime, figures.setup_time = 64 * MIB, 12 * MIB, 0.004, 0.01
    figures.dirty_log = "userfaultfd"
    figures.passes = [Pass(0.01, 16384, 1.0, 10 * MIB, 512), Pass(1.01, 512, 0.2, 2 * MIB, 1)]
    for name, value in changes.items():
        setattr(figures, name, value)
    return progress


def page_of(progress: Progress, uri: str = "tcp:127.0.0.1:1") -> Page:
    with Recorder(progress, uri) as recorder:
        pass
    return Page(page(report(recorder)))


@pytest.fixture
def source(running_toy: Machine) -> Machine:
    return running_toy


@pytest.mark.parametrize("suffix", ["json", "html"])
def test_report_of_a_real_migration_is_there_when_waiting_ends(source: Machine, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"report.{suffix}"
    source.migration.migrate("exec:cat >/dev/null", report=path)
    assert source.migration.wait(60) is Status.COMPLETED
    if suffix == "html":
        Page(path.read_text())
        return
    data = json.loads(path.read_text())
    figures = source.migration.progress.figures
    assert (data["status"], data["error"], data["uri"]) == ("completed", None, "exec:cat >/dev/null")
    assert data["figures"]["transferred"] == figures.transferred == data["samples"][-1]["transferred"]
    assert len(data["figures"]["passes"]) == len(figures.passes)


def test_failed_migration_has_a_report_as_well(source: Machine, tmp_path: Path) -> None:
    source.migration.migrate("exec:exit 3", report=tmp_path / "report.html")
    assert source.migration.wait(60) is Status.FAILED
    assert any("exit status 3" in words for words in Page((tmp_path / "report.html").read_text()).words)


def test_report_that_cannot_be_written_is_told_to_who_waits(source: Machine, tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir()
    source.migration.migrate("exec:cat >/dev/null", report=tmp_path / "report.html")
    with pytest.raises(FileError, match="cannot write"):
        source.migration.wait(60)
    assert source.migration.wait(60) is Status.COMPLETED


@pytest.mark.parametrize("name", ["report", "report.txt", "html"])
def test_name_says_what_the_report_is_to_be(name: str) -> None:
    with pytest.raises(ConfigError, match=r"must end in \.html or \.json"):
        report_path(name)


def test_page_loads_nothing() -> None:
    found = page_of(finished())
    assert not {"script", "link", "img", "iframe"} & set(found.tags)
    assert not {"src", "href", "srcset"} & {name for name, _ in found.attributes}
    assert not any("url(" in words or "@import" in words for words in found.words)


def test_page_shows_passes_and_downtime() -> None:
    words = page_of(finished(xbzrle=XbzrleFigures(pages=1234, bytes=MIB))).words
    for expected in ("pass 1: 16,384 pages sent", "downtime: 4.0 ms", "12.0 MiB", "userfaultfd", "XBZRLE"):
        assert any(expected in one for one in words), expected


def test_what_came_from_outside_is_text() -> None:
    progress = finished()
    progress.change(Status.FAILED, "the destination refused: <script>alert(1)</script> & \"'")
    found = page_of(progress, "exec:cat >'<b>'")
    assert not {"script", "b"} & set(found.tags)
    assert any("<script>alert(1)</script>" in words for words in found.words)


def test_page_of_a_migration_that_never_began() -> None:
    progress = Progress()
    progress.begin()
    progress.change(Status.FAILED, "refused")
    assert "refused" in page_of(progress).words


def test_curve_of_the_rate_adds_up_to_what_was_sent() -> None:
    moments = [(0.1, 5), (0.15, 90), (0.5, 91), (1.9, 300), (2.0, 400)]
    samples = [{"seconds": seconds, "transferred": sent * MIB} for seconds, sent in moments]
    curve = rates(samples, 2.0)
    assert sum(rate for _, rate in curve) * 2.0 / len(curve) == pytest.approx(400)


def test_samples_are_bounded() -> None:
    recorder = Recorder(finished(), "")
    for _ in range(5 * SAMPLE_LIMIT):
        recorder.take()
    assert len(recorder.samples) < SAMPLE_LIMIT


@pytest.mark.parametrize(("most", "step"), [(10, 2), (1, 0.2), (0.004, 0.001), (1234, 200), (7, 1), (0, 1)])
def test_grid_has_round_steps(most: float, step: float) -> None:
    assert nice_step(most) == pytest.approx(step)


def test_logarithmic_axis_places_powers_of_ten_evenly() -> None:
    axis = Axis(10_000, 400, log=True)
    assert [axis.place(value) for value in (0, 1, 10, 100, 1000, 10_000)] == pytest.approx([0, 0, 100, 200, 300, 400])
    assert list(axis.ticks()) == [1, 10, 100, 1000, 10_000]


def test_figures_are_all_in_the_data() -> None:
    with Recorder(finished(), "") as recorder:
        pass
    assert set(report(recorder)["figures"]) == set(Figures.__slots__)
