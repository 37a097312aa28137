"""Draws the progress of a batch and of a training, and the live status. It imports rich."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Table
from rich.text import Text

from replicate_concurrent.cli.session import duration, visible
from replicate_concurrent.training_results import Training

_MARGIN = 4
"""Columns at the end of a line of logs, for the `^C` of the terminal."""

_SHORTEST, _LONGEST, _BESIDE = 8, 60, 68
"""Columns of the bar, and of what stands beside it at most. The line must not fill the terminal, or the `^C` of the
terminal would be on a line of its own, and the bar be drawn twice."""


class Bar:
    """The progress of a batch on standard error."""

    def __init__(
        self, *, total: int, done: int, expected_seconds: float, console: Console | None = None
    ) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._progress = Progress(
            BarColumn(bar_width=max(_SHORTEST, min(_LONGEST, self._console.width - _BESIDE))),
            TextColumn("{task.completed}/{task.total}"),
            _Failed(),
            TextColumn("{task.fields[in_flight]} in flight"),
            _Rate(),
            _Left(),
            TextColumn("{task.fields[usd]:.2f} USD", style="bold"),
            console=self._console,
        )
        self._expected = expected_seconds
        self._first = done
        self._total = total
        self._task = self._progress.add_task(
            "",
            total=total,
            completed=done,
            failed=0,
            in_flight=0,
            usd=0.0,
            rate=None,
            left=expected_seconds or None,
        )
        self._began = time.monotonic()
        self._ended = 0

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, *, done: int, failed: int, in_flight: int, usd: float) -> None:
        """Draw these numbers of rows, and the USD of this run."""
        ended = done + failed - self._first
        seconds = time.monotonic() - self._began
        rate = ended / seconds if ended and seconds else None
        remaining = self._total - done - failed
        left = remaining / rate if rate else max(0.0, self._expected - seconds) or None
        self._progress.update(
            self._task,
            completed=done + failed,
            failed=failed,
            in_flight=in_flight,
            usd=usd,
            rate=rate,
            left=left,
        )

    def print(self, text: str, *, style: str = "") -> None:
        """Print a line above the bar."""
        self._console.print(Text(visible(text), style=style))


class TrainingBar:
    """The progress of a training on standard error, with the last line of its logs below."""

    def __init__(
        self, *, console: Console | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._clock = clock
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=max(_SHORTEST, min(_LONGEST, self._console.width - _BESIDE))),
            TextColumn("{task.fields[done]}"),
            _Left(),
            console=self._console,
        )
        self._task = self._progress.add_task("", total=None, done="", left=None)
        self._live = Live(console=self._console, transient=True)
        self._first: tuple[float, float] | None = None

    def __enter__(self) -> TrainingBar:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, training: Training) -> None:
        """Draw how the training stands."""
        done = training.progress
        self._progress.update(
            self._task,
            description=training.status,
            total=None if done is None else 100,
            completed=done or 0,
            done="" if done is None else f"{done:.0f} %",
            left=self._left(training),
        )
        line = Text(_last_line(training.logs), style="dim", no_wrap=True, overflow="ellipsis")
        line.truncate(self._console.width - _MARGIN, overflow="ellipsis")
        self._live.update(Group(self._progress, line), refresh=True)

    def _left(self, training: Training) -> float | None:
        """The seconds that are left: as fast as it was since the first look, else as usual."""
        done = training.progress
        if done is None:
            return None if training.status == "queued" else training.estimated_seconds
        at = self._clock()
        self._first = self._first or (at, done)
        began, before = self._first
        if done > before:
            return (at - began) / (done - before) * (100 - done)
        usual = training.estimated_seconds
        return None if usual is None else usual * (100 - done) / 100


def live_status(facts: Callable[[], Sequence[tuple[str, object]]]) -> None:
    """Show names with their values, each second anew, until Ctrl-C."""
    with Live(_grid(facts()), auto_refresh=False, transient=False) as live:
        while True:
            live.update(_grid(facts()), refresh=True)
            time.sleep(1)


def _grid(facts: Sequence[tuple[str, object]]) -> Table:
    grid = Table.grid(padding=(0, 2))
    for name, value in facts:
        if value is not None:
            grid.add_row(Text(name, style="dim"), Text(str(value)))
    return grid


def _last_line(logs: str) -> str:
    """The last line that is not empty. A bar in logs draws itself anew after each carriage return."""
    lines = [line.strip() for line in logs.replace("\r", "\n").split("\n")]
    return visible(next((line for line in reversed(lines) if line), ""))


class _Failed(ProgressColumn):
    def render(self, task: Task) -> Text:
        failed = task.fields["failed"]
        return Text(f"{failed} failed", style="red" if failed else "dim")


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        rate = task.fields["rate"]
        if rate is None:
            return Text("  -/s", style="dim")
        return Text(f"{rate:.1f}/s" if rate >= 1 else f"{rate * 60:.1f}/min", style="cyan")


class _Left(ProgressColumn):
    def render(self, task: Task) -> Text:
        left = task.fields["left"]
        return Text("ETA -" if left is None else f"ETA {duration(left)}", style="magenta")
