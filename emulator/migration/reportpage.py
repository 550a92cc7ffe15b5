"""A migration's report as one HTML page: facts, plots and a table, without a script or anything from elsewhere."""

from __future__ import annotations

import html
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from emulator.migration.plots import Plot

MIB = 1 << 20
BINS = 60
"""Points of the curve of the rate."""

Data = Mapping[str, Any]

STYLE = """
:root { color-scheme: light dark; --ink: #1f2937; --paper: #ffffff; --faint: #e5e7eb; --soft: #6b7280;
  --sent: #2563eb; --dirty: #ea580c; --down: #dc2626; --setup: #9ca3af; --band: #2563eb12; --other: #2563eb24 }
@media (prefers-color-scheme: dark) { :root { --ink: #e5e7eb; --paper: #111827; --faint: #374151; --soft: #9ca3af } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 58rem;
  margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem; margin: 0 } h2 { font-size: 1.05rem; margin: 1.8rem 0 .2rem } p { margin: .3rem 0 }
.why { color: var(--down) } .soft, svg text { color: var(--soft); fill: var(--soft) } svg text { font-size: 12px }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: .8rem 1.2rem; margin: 1.2rem 0 }
dt { color: var(--soft); font-size: .85rem } dd { margin: 0; font-size: 1.15rem }
svg { width: 100%; height: auto; display: block } .grid { stroke: var(--faint) }
.sent { fill: var(--sent) } .dirty { fill: var(--dirty) } .down { fill: var(--down) } .setup { fill: var(--setup) }
.rate { fill: var(--sent); fill-opacity: .55; stroke: var(--sent); pointer-events: none }
.band { fill: var(--band) } .other { fill: var(--other) } rect:hover { fill-opacity: .7 }
.key::before { content: ""; display: inline-block; width: .7em; height: .7em; margin: 0 .35em 0 .9em;
  background: var(--key) }
.bar { display: flex; height: 1.6rem }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { text-align: right; padding: .15rem .6rem; border-bottom: 1px solid var(--faint) } th { font-weight: 500 }
"""


def page(data: Data) -> str:
    """The whole page for what `report.report` has put together."""
    status = html.escape(data["status"])
    why = f'<p class="why">{html.escape(data["error"])}</p>' if data["error"] else ""
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Live migration: {status}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>\n'
        f"<h1>Live migration: {status}</h1>{why}\n<dl>{''.join(_facts(data))}</dl>\n"
        f"{_rate(data)}\n{_pages(data)}\n{_times(data)}\n{_table(data)}\n</body></html>\n"
    )


def _facts(data: Data) -> Iterator[str]:
    figures = data["figures"]
    seconds = max(figures["total_time"], 1e-9)
    facts = {
        "total time": _seconds(figures["total_time"]),
        "downtime": "none" if figures["downtime"] is None else _seconds(figures["downtime"]),
        "sent": _size(figures["transferred"]),
        "of RAM": _size(figures["total"]),
        "mean rate": f"{_size(figures['transferred'] / seconds)}/s",
        "passes": f"{figures['pass_count']:,}",
        "pages with data": f"{figures['normal']:,}",
        "zero pages": f"{figures['duplicate']:,}",
        "dirty log": figures["dirty_log"] or "none",
        "to": data["uri"],
    }
    if xbzrle := figures["xbzrle"]:
        facts["XBZRLE"] = f"{xbzrle['pages']:,} pages in {_size(xbzrle['bytes'])}"
    if throttle := max((sample["throttle"] for sample in data["samples"]), default=0):
        facts["throttled to"] = f"{100 - throttle} %"
    return (f"<div><dt>{name}</dt><dd>{html.escape(value)}</dd></div>" for name, value in facts.items())


def _rate(data: Data) -> str:
    """How much was sent a second, from sample to sample, over the passes."""
    figures, samples = data["figures"], data["samples"]
    end = max(figures["total_time"], 1e-3)
    points = rates(samples, end)
    most = max((rate for _, rate in points), default=0.0)
    plot = Plot("Rate over time", "seconds", "MiB/s", end, max(most, 1.0) * 1.05)
    for number, this in enumerate(figures["passes"], 1):
        begun, seconds = this["begun"], this["seconds"]
        tip = f"pass {number}: {this['pages']:,} pages, {_size(this['bytes_sent'])} in {_seconds(seconds)}"
        plot.band(begun, begun + seconds, "other" if number % 2 else "band", f"pass {number}", tip)
    if figures["downtime"] is not None:
        downtime = figures["downtime"]
        plot.band(end - downtime, end, "down", "downtime", f"downtime: {_seconds(downtime)}")
    plot.area(points, "rate")
    return f"<h2>Rate</h2>{plot.svg()}"


def rates(samples: Sequence[Data], end: float) -> list[tuple[float, float]]:
    """Moments, and MiB a second around them."""
    times = [0.0] + [sample["seconds"] for sample in samples]
    totals = [0.0] + [float(sample["transferred"]) for sample in samples]
    count = max(min(BINS, len(samples)), 1)
    edges = [end * number / count for number in range(count + 1)]
    sent = [_between(times, totals, edge) for edge in edges]
    width = end / count
    return [((edges[at] + width / 2), (sent[at + 1] - sent[at]) / width / MIB) for at in range(count)]


def _between(times: Sequence[float], values: Sequence[float], at: float) -> float:
    """The value at a moment between two samples."""
    after = bisect_left(times, at)
    if after == 0:
        return values[0]
    if after == len(times):
        return values[-1]
    share = (at - times[after - 1]) / max(times[after] - times[after - 1], 1e-9)
    return values[after - 1] + share * (values[after] - values[after - 1])


def _pages(data: Data) -> str:
    """How many pages each pass sent, and how many the guest wrote meanwhile."""
    passes = data["figures"]["passes"]
    if not passes:
        return ""
    most = max(max(this["pages"], this["dirtied"]) for this in passes)
    names = [str(number) for number in range(1, len(passes) + 1)]
    plot = Plot("Pages of each pass", "pass", "pages", len(passes), max(most, 10), log=True, x_names=names)
    for number, this in enumerate(passes):
        plot.bar(
            number + 0.15, number + 0.49, this["pages"], "sent", f"pass {number + 1}: {this['pages']:,} pages sent"
        )
        tip = f"pass {number + 1}: {this['dirtied']:,} pages written by the guest meanwhile"
        plot.bar(number + 0.51, number + 0.85, this["dirtied"], "dirty", tip)
    key = _key(("sent", "sent"), ("dirty", "written by the guest meanwhile"))
    return f"<h2>Pages of each pass {key}</h2>{plot.svg(show_y='{:,.0f}'.format)}"


def _times(data: Data) -> str:
    """Where the time went."""
    figures = data["figures"]
    spent = [("setup", "setup", figures["setup_time"] or 0.0)]
    for number, this in enumerate(figures["passes"], 1):
        spent.append((f"pass {number}", "sent" if number % 2 else "other", this["seconds"]))
    spent.append(("downtime", "down", figures["downtime"] or 0.0))
    parts = "".join(
        f'<div style="flex:{seconds:.6f} 0 1px;background:var(--{colour})" title="{name}: {_seconds(seconds)}"></div>'
        for name, colour, seconds in spent
        if seconds > 0
    )
    key = _key(("setup", "setup"), ("sent", "passes"), ("down", "downtime"))
    return f'<h2>Where the time went {key}</h2><div class="bar">{parts}</div>'


def _table(data: Data) -> str:
    passes, count = data["figures"]["passes"], data["figures"]["pass_count"]
    joined = f", {count:,} in all: each row is several" if count > len(passes) else ""
    heading = "".join(f"<th>{name}</th>" for name in ("pass", "begun", "took", "pages", "sent", "rate", "written"))
    rows = "".join(
        f"<tr><td>{number}</td><td>{_seconds(this['begun'])}</td><td>{_seconds(this['seconds'])}</td>"
        f"<td>{this['pages']:,}</td><td>{_size(this['bytes_sent'])}</td>"
        f"<td>{_size(this['bytes_sent'] / max(this['seconds'], 1e-6))}/s</td><td>{this['dirtied']:,} pages</td></tr>"
        for number, this in enumerate(passes, 1)
    )
    return f"<h2>Passes{joined}</h2><table><tr>{heading}</tr>{rows}</table>"


def _key(*entries: tuple[str, str]) -> str:
    spans = "".join(f'<span class="key" style="--key:var(--{colour})">{name}</span>' for colour, name in entries)
    return f'<small class="soft">{spans}</small>'


def _size(count: float) -> str:
    return f"{count / MIB:,.1f} MiB" if count >= MIB else f"{count / 1024:,.1f} KiB"


def _seconds(seconds: float) -> str:
    return f"{seconds:,.2f} s" if seconds >= 1 else f"{seconds * 1000:,.1f} ms"
