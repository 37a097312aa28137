"""The report: sections, each a table under its title, as Markdown."""

import os
import signal
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from textwrap import fill

RESULTS = Path(__file__).parent / "results.md"

_CONDITIONS = "Measured on {:%Y-%m-%d}; the machine's load average was {:.1f} before it began."


@dataclass(frozen=True, slots=True)
class Section:
    """A table of the report.

    Attributes:
        title: Its heading.
        columns: The head of the table.
        rows: The rows, each with a cell for each column.
        missed: The missed targets, a sentence each.
        note: A paragraph above the table; may be empty.

    Raises:
        ValueError: If a row has more or fewer cells than there are columns.
    """

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    missed: list[str]
    note: str = ""

    def __post_init__(self) -> None:
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"{self.title}: every row must have {len(self.columns)} cells")


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim, its measured figure, its target (empty if there is none), and whether the target is met."""

    what: str
    figure: str
    target: str = ""
    met: bool = True


def counted(what: str, found: int, due: int = 0) -> Claim:
    """The claim that a count is exactly the due one."""
    return Claim(what, f"{found}", f"{due}", found == due)


def claimed(title: str, claims: Iterable[Claim], *, note: str = "") -> Section:
    """A section with a row for each claim. Each claim is printed at once."""
    rows: list[tuple[str, ...]] = []
    missed = []
    for it in claims:
        print(f"{'ok  ' if it.met else 'MISS'} {it.what}: {it.figure}  {it.target}", flush=True)
        rows.append((it.what, it.figure, it.target, "yes" if it.met else "no"))
        if not it.met:
            missed.append(f"{it.what}: {it.figure}, not {it.target}")
    return Section(title, ("what", "figure", "target", "met"), rows, missed, note)


def markdown(section: Section) -> str:
    """The heading, note, table and missed targets. The text ends in one newline."""
    table = [_line(section.columns), _line("---" for _ in section.columns), *map(_line, section.rows)]
    parts = [
        [f"## {section.title}"],
        [_wrapped(section.note)],
        table,
        [f"- Missed: {each}" for each in section.missed],
    ]
    return "\n\n".join("\n".join(lines) for lines in parts if any(lines)) + "\n"


def updated(report: str, section: Section) -> str:
    """The report with this section, in place of an earlier one with the same title."""
    head, *sections = report.split("\n## ")
    titled = {each.partition("\n")[0]: each for each in sections}
    titled[section.title] = markdown(section).removeprefix("## ")
    return "\n## ".join([head, *titled.values()])


def recorded(measure: Callable[[], Section], results: Path | None, *, head: str = "") -> Section:
    """Measure a section, print it with its conditions, and put it into this report, which begins with `head`."""
    began, load = datetime.now(UTC), os.getloadavg()[0]
    section = measure()
    section = replace(section, note=f"{section.note} {_CONDITIONS.format(began, load)}")
    print(f"\n{markdown(section)}", flush=True)
    if results is not None:
        results.write_text(updated(results.read_text() if results.exists() else head, section))
    return section


def exit_on_sigterm() -> None:
    """Let SIGTERM unwind the stack, so that all processes started here end."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def run_alone(measure: Callable[[], Section]) -> int:
    """The `main` of a module with one section: print it and put it into `RESULTS`. Returns the exit status: 1 if a
    target is missed."""
    exit_on_sigterm()
    return 1 if recorded(measure, RESULTS).missed else 0


def _wrapped(paragraph: str) -> str:
    return fill(" ".join(paragraph.split()), 110, break_long_words=False, break_on_hyphens=False)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
