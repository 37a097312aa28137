"""Draws the progress of a batch, and the live status. It imports rich."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Table
from rich.text import Text

from replicate_concurrent.cli.session import duration, visible

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
