"""Bar charts of `bench/results.md`, as SVG in `docs/plots/`.

`make bench` draws them, and so does `python -m bench.plots`.
"""

import re
from dataclasses import dataclass
from html import escape
from pathlib import Path

from bench.report import RESULTS

ROOT = Path(__file__).parent.parent
PLOTS = ROOT / "docs" / "plots"

_AGAINST = "## This commit against"

_LEFT, _WIDTH, _ROW, _TOP = 440, 860, 34, 64
"""Pixels: the left edge of the bars, the width of a chart, the height of a row, and the height of the title."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar. `text` follows it; `is_ours` selects its colour."""

    name: str
    value: float
    text: str
    is_ours: bool = False


def charts(results: str) -> dict[Path, str]:
    """Each chart's path and its SVG, made from the text of `bench/results.md`. Raises ValueError if figures are
    missing. Only results with the section of `bench/against.py` have its chart."""
    date = _found(r"^(\d{4}-\d\d-\d\d)", results)
    drawn = {
        PLOTS / "window.svg": _chart(
            "Creations in the densest 60 s, as a part of the limit", date, _window(results), mark="limit"
        ),
        PLOTS / "makespan.svg": _chart(
            "180 pictures of 12 s at 60 slots: time as a multiple of the ideal",
            date,
            _makespans(results),
            mark="ideal",
        ),
        PLOTS / "path.svg": _chart(
            "CPU of a request, as a multiple of a bare forwarder's", date, _path(results), mark="forwarder"
        ),
    }
    if _AGAINST in results:
        before = _found(rf"^{_AGAINST} (.+)$", results)
        drawn[PLOTS / "against.svg"] = _chart(
            f"CPU of a request, as a multiple of that in {before}", date, _against(results), mark="before"
        )
    return drawn


def draw(results: str) -> None:
    """Write all charts."""
    PLOTS.mkdir(exist_ok=True)
    for path, svg in charts(results).items():
        path.write_text(svg)


def _window(results: str) -> list[Bar]:
    loads = {
        "2,000 creations, 800 ms each way": r"\| … at the most in any 60 s \| (\d+) \| ≤ (\d+) ",
        "both limits changed 20 times": r"changed 20 times: at the most in any 60 s \| (\d+) \| ≤ (\d+),",
        "five stalls, three kills": r"Creations at the most in any 60 s \| (\d+) \| ≤ (\d+) ",
        "200 kills under load": r"creations at the most in any 60 s \| (\d+) \| ≤ (\d+) ",
    }
    bars = []
    for name, pattern in loads.items():
        most, limit = re.findall(pattern, results)[0]
        bars.append(Bar(name, int(most) / int(limit), f"{most} of {limit}", is_ours=True))
    return bars


def _makespans(results: str) -> list[Bar]:
    rows = re.findall(
        r"^\| ([^|]+) \| ([\d.]+) \| \d+ \| [\d.]+ \|", _section(results, "## 180 pictures"), re.MULTILINE
    )
    return [
        Bar(name.replace("`", ""), float(ratio), ratio, is_ours="this service" in name)
        for name, ratio in rows
    ]


def _path(results: str) -> list[Bar]:
    bars = []
    for row in _rows(results, "## The path alone"):
        name = f"{row['callers']} at once" + (", files kept" if row.get("files") == "kept" else "")
        worst = f", at worst {row['worst round']}" if "worst round" in row else ""
        bars.append(Bar(name, float(row["CPU ratio"]), row["CPU ratio"] + worst, is_ours=True))
    return bars


def _against(results: str) -> list[Bar]:
    """Two bars for each load: the ratio of the commits, and the noise."""
    bars = []
    for row in _rows(results, _AGAINST):
        load = row["what"].removeprefix("CPU a request ")
        if load != row["what"]:
            ratio, noise = row["this / before"], row["before / before"]
            bars += [
                Bar(load, float(ratio.split()[0]), ratio, is_ours=True),
                Bar("the same commit twice", float(noise.split()[0]), noise),
            ]
    return bars


def _rows(results: str, heading: str) -> list[dict[str, str]]:
    """The rows of the table under a heading, by column."""
    lines = [line for line in _section(results, heading).splitlines() if line.startswith("|")]
    columns, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _section(results: str, heading: str) -> str:
    return results.partition(heading)[2].partition("\n## ")[0]


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text, re.MULTILINE)
    if match is None:
        raise ValueError(f"the results have no {pattern}")
    return match[1]


def _chart(title: str, date: str, bars: list[Bar], *, mark: str) -> str:
    """Horizontal bars, and a line at 1 with the name `mark`."""
    if not bars:
        raise ValueError(f"no figures for {title}")
    scale = (_WIDTH - _LEFT - 90) / max(bar.value for bar in bars)
    height = _TOP + _ROW * len(bars) + 16
    line = _LEFT + scale
    font = 'font-family="system-ui, sans-serif" font-size="13" fill="#0f172a"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" {font}>',
        f'<rect width="{_WIDTH}" height="{height}" rx="8" fill="#ffffff"/>',
        f'<text x="16" y="26" font-size="15" font-weight="600">{escape(title)}</text>',
        f'<text x="16" y="46" fill="#475569">make bench, {date}</text>',
    ]
    for number, bar in enumerate(bars):
        top, width = _TOP + number * _ROW, bar.value * scale
        colour = "#2563eb" if bar.is_ours else "#94a3b8"
        parts += [
            f'<text x="{_LEFT - 10}" y="{top + 16}" text-anchor="end">{escape(bar.name)}</text>',
            f'<rect x="{_LEFT}" y="{top}" width="{width:.0f}" height="22" rx="3" fill="{colour}"/>',
            f'<text x="{_LEFT + width + 8:.0f}" y="{top + 16}">{escape(bar.text)}</text>',
        ]
    parts += [
        f'<text x="{line:.0f}" y="{_TOP - 12}" fill="#dc2626" text-anchor="middle">{mark}</text>',
        f'<path d="M{line:.0f} {_TOP - 8}V{height - 8}" stroke="#dc2626" stroke-dasharray="4 3" stroke-width="1.5"/>',
    ]
    return "\n".join([*parts, "</svg>\n"])


if __name__ == "__main__":
    draw(RESULTS.read_text())
