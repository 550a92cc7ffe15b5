"""Plots for a page: bars and areas over a labelled grid, as inline SVG that needs no script and no style of its own.

Colours come from the page's style sheet by class; a mark's exact value is its tooltip.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

WIDTH, HEIGHT = 900, 260
LEFT, RIGHT, TOP, BOTTOM = 70, 12, 26, 40
"""Room around the plot itself, for labels."""


@dataclass(frozen=True, slots=True)
class Axis:
    """Values from 0 to `most` along `length` pixels; with `log`, powers of ten from 1 on, and below 1 nothing."""

    most: float
    length: float
    log: bool = False

    def place(self, value: float) -> float:
        """How many pixels from the axis's beginning a value is."""
        if self.log:
            return self.length * math.log10(max(value, 1)) / math.log10(max(self.most, 10))
        return self.length * min(max(value, 0) / self.most, 1) if self.most else 0.0

    def ticks(self) -> Iterator[float]:
        """Round values to label."""
        if self.log:
            yield from (
                10**power for power in range(math.ceil(math.log10(max(self.most, 10))) + 1) if 10**power <= self.most
            )
            return
        step = nice_step(self.most)
        yield from (number * step for number in range(int(self.most / step + 1e-9) + 1))


def nice_step(most: float) -> float:
    """A round number that goes four to ten times into `most`."""
    if most <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(most / 4))
    return next(factor * power for factor in (5, 2, 1) if most / (factor * power) >= 4)


@dataclass
class Plot:
    """One plot; marks are drawn in the order in which they are added, over the grid."""

    title: str
    x_label: str
    y_label: str
    x_most: float
    y_most: float
    log: bool = False
    x_names: Sequence[str] = ()
    """Labels for the middle of each unit of the x axis, in place of numbers."""
    _marks: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.x = Axis(self.x_most, WIDTH - LEFT - RIGHT)
        self.y = Axis(self.y_most, HEIGHT - TOP - BOTTOM, self.log)

    def bar(self, left: float, right: float, height: float, style: str, tip: str) -> None:
        """A rectangle from the x axis up."""
        x, width, tall = self.x.place(left), self.x.place(right) - self.x.place(left), self.y.place(height)
        self._marks.append(
            f'<rect class="{style}" x="{LEFT + x:.1f}" y="{HEIGHT - BOTTOM - tall:.1f}" width="{max(width, 0.5):.1f}" '
            f'height="{tall:.1f}"><title>{html.escape(tip)}</title></rect>'
        )

    def band(self, left: float, right: float, style: str, label: str, tip: str) -> None:
        """A stretch of the x axis, over the whole height; its label is shown if there is room."""
        self.bar(left, right, self.y_most, style, tip)
        middle, room = (self.x.place(left) + self.x.place(right)) / 2, self.x.place(right) - self.x.place(left)
        if room > 7 * len(label):
            self._marks.append(_text(LEFT + middle, TOP - 5, label))

    def area(self, points: Sequence[tuple[float, float]], style: str) -> None:
        """The area between the x axis and a line through `points`."""
        if not points:
            return
        line = " ".join(f"{LEFT + self.x.place(x):.1f},{HEIGHT - BOTTOM - self.y.place(y):.1f}" for x, y in points)
        first, last = (LEFT + self.x.place(points[end][0]) for end in (0, -1))
        self._marks.append(
            f'<polygon class="{style}" points="{first:.1f},{HEIGHT - BOTTOM} {line} {last:.1f},{HEIGHT - BOTTOM}"/>'
        )

    def svg(
        self, show_x: Callable[[float], str] = "{:g}".format, show_y: Callable[[float], str] = "{:g}".format
    ) -> str:
        """The plot as an element of a page."""
        bottom = HEIGHT - BOTTOM
        grid = []
        for value in self.y.ticks():
            at = bottom - self.y.place(value)
            grid.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
            grid.append(_text(LEFT - 6, at + 4, show_y(value), "end"))
        if self.x_names:
            every = math.ceil(len(self.x_names) / 30)
            named = list(enumerate(self.x_names))[::every]
            grid += [_text(LEFT + self.x.place(index + 0.5), bottom + 16, name) for index, name in named]
        else:
            grid += [_text(LEFT + self.x.place(value), bottom + 16, show_x(value)) for value in self.x.ticks()]
        grid.append(_text(LEFT + self.x.length / 2, HEIGHT - 6, self.x_label))
        grid.append(
            f'<text transform="translate(14,{(TOP + bottom) / 2:.0f}) rotate(-90)" text-anchor="middle">'
            f"{html.escape(self.y_label)}</text>"
        )
        return (
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(self.title)}">'
            f"{''.join(grid)}{''.join(self._marks)}</svg>"
        )


def _text(x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(text)}</text>'
