"""Runs `rcg batch`: the forecast and its question, the progress, Ctrl-C, the summary, and the exit status."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from replicate_concurrent.batches import planning, summary
from replicate_concurrent.batches.inputs import rows_of
from replicate_concurrent.batches.runner import BatchRun, Ended
from replicate_concurrent.batches.summary import Outcome
from replicate_concurrent.cli.exits import FAILED, INTERRUPTED
from replicate_concurrent.cli.session import (
    Session,
    confirmed,
    duration,
    emit,
    emit_json,
    report,
    usd,
    visible,
)
from replicate_concurrent.cli.waiting import AGAIN
from replicate_concurrent.client import Client
from replicate_concurrent.errors import NotFound, ReplicateConcurrentError

_SHOWN_FAILURES: Final = 10


@dataclass(frozen=True)
class BatchCommand:
    """The options of `rcg batch`. `ask_above` is in USD, None for no question."""

    input: str
    form: str | None
    common: Mapping[str, Any]
    prompt: str | None
    out: Path
    name: str
    retry_failed: bool
    options: Mapping[str, Any]
    ask_above: float | None
    dry_run: bool
    contact_sheet: bool


def run(session: Session, command: BatchCommand) -> int:
    """Run the batch. Returns the exit status. Raises ValueError for its input, and ReplicateConcurrentError."""
    with session.client() as client:
        listed = rows_of(
            client, command.input, command.common, prompt=command.prompt, name=command.name, form=command.form,
            typed=False, stdin=sys.stdin,
        )  # fmt: skip
        if command.dry_run and not command.out.exists():
            _show_forecast(session, len(listed), planning.forecast(client, listed, command.options))
            return 0
        with BatchRun(
            client, listed, command.out, name=command.name, retry_failed=command.retry_failed, options=command.options
        ) as batch:  # fmt: skip
            if command.dry_run:
                _show_forecast(session, len(listed), batch.forecast)
                return 0
            if not _begin(batch, command):
                report("No row was sent.")
                return FAILED
            status = View(session, client, batch, len(listed), command.out).follow()
            return finish(batch, command, status)


def _show_forecast(session: Session, total: int, forecast: planning.Forecast) -> None:
    if session.json:
        for plan in forecast.plans:
            emit_json(plan.raw)
    else:
        emit(f"{total} rows, {_spent(forecast)}" if forecast.total else f"{total} rows, none to make")


def _begin(batch: BatchRun, command: BatchCommand) -> bool:
    """Show the forecast, and request a confirmation if it may cost much. Returns whether to go on."""
    standing, forecast = batch.standing, batch.forecast
    parts = [
        f"{len(standing.done)} done before" if standing.done else "",
        f"{len(standing.failed)} failed before (--retry-failed makes them again)" if standing.failed else "",
        f"{len(standing.open)} go on" if standing.open else "",
        f"{forecast.total} new: {_spent(forecast)}" if forecast.total else "",
    ]
    report(", ".join(part for part in parts if part) + ".")
    if standing.orphans:
        report(
            f"{standing.orphans} rows of earlier runs are not in the input any more; `rcg list` shows their work."
        )
    if batch.earlier_name:
        report(f"Rows of earlier runs keep the names of --name {batch.earlier_name!r}.")
    doubt = question(forecast, command.ask_above)
    return not doubt or confirmed(f"{doubt} Go on? [y/N] ")


def question(forecast: planning.Forecast, ask_above: float | None) -> str:
    """The question before any row is sent: its reasons. Empty without one."""
    if ask_above is None:
        return ""
    reasons = [
        f"This may cost {usd(forecast.bound_usd)} USD." if forecast.bound_usd > ask_above else "",
        f"The cost of {forecast.unbounded} rows is not known." if forecast.unbounded else "",
    ]
    return " ".join(filter(None, reasons))


def _spent(forecast: planning.Forecast) -> str:
    most = f" (at most {usd(forecast.bound_usd)})" if forecast.bound_usd > forecast.usd else ""
    if forecast.unbounded:
        most += f" (the cost of {forecast.unbounded} rows is not known)"
    return f"{usd(forecast.usd)} USD{most}, about {duration(forecast.seconds)}, strategy {forecast.strategy}"


class View:
    """Follows a run: shows its progress on a terminal, and writes its results as JSON lines."""

    def __init__(
        self,
        session: Session,
        client: Client,
        batch: BatchRun,
        total: int,
        out: Path,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._session = session
        self._client = client
        self._batch = batch
        self._total = total
        self._out = out
        self._writes_lines = session.json or not sys.stdout.isatty()
        self._done = len(batch.standing.done)
        self._failed = len(batch.standing.failed)
        self._usd = 0.0
        self._simulated = False
        self._bar: Any = None

    def follow(self) -> int:
        """Run it to its end, or until Ctrl-C. Returns 0 or INTERRUPTED."""
        with ExitStack() as stack:
            try:
                self._batch.start()
                if sys.stderr.isatty():
                    from replicate_concurrent.cli.screen import Bar

                    seconds = self._batch.forecast.seconds
                    bar = Bar(total=self._total, done=self._done + self._failed, expected_seconds=seconds)
                    self._bar = stack.enter_context(bar)
                self._draw()
                for each in (*self._batch.standing.done, *self._batch.standing.failed):
                    if self._writes_lines:
                        self._write(each, self._looked_up(each) if self._session.json else None)
                while not self._batch.is_over:
                    self._took(self._batch.next())
                if self._simulated:
                    report("The service is simulated: these outputs are fakes.")
                return 0
            except ReplicateConcurrentError:
                stack.close()
                report(f"{self._done} of {self._total} rows done. The same command goes on with the others.")
                raise
            except KeyboardInterrupt:
                stack.close()
                self._bar = None
                self._leave()
                return INTERRUPTED

    def _took(self, ended: Ended | None) -> None:
        if ended is not None:
            line = ended.outcome.line
            self._usd += line.cost_usd if line else 0.0
            self._simulated |= ended.generation is not None and ended.generation.raw.get("simulated") is True
            self._done += ended.outcome.is_done
            self._failed += not ended.outcome.is_done
            if self._writes_lines:
                answer = None if ended.generation is None else ended.generation.raw
                self._write(ended.outcome, answer, ended.trouble)
            elif not ended.outcome.is_done and self._bar is not None:
                trouble = ended.trouble or ended.outcome.trouble
                self._bar.print(f"{ended.outcome.row.place}: {trouble}", style="red")
        self._draw()

    def _write(self, outcome: Outcome, answer: Mapping[str, Any] | None, trouble: str = "") -> None:
        """Write the line of a row that has ended: with --json the service's `answer` about it. That is an error if the
        service does not know the row any more, which the manifest has."""
        if not self._session.json:
            emit(json.dumps(_line(outcome, trouble, self._out), ensure_ascii=False))
        else:
            emit_json(answer or (outcome.line and outcome.line.error) or {})

    def _looked_up(self, outcome: Outcome) -> Mapping[str, Any] | None:
        """The service's answer about a row that had ended before this run; None if it never had an id."""
        if outcome.line is None or outcome.line.generation is None:
            return None
        try:
            return self._client.handle(outcome.line.generation).status().raw
        except NotFound as error:
            return error.raw

    def _draw(self) -> None:
        if self._bar is not None:
            in_flight = self._batch.in_flight
            self._bar.show(done=self._done, failed=self._failed, in_flight=in_flight, usd=self._usd)

    def _leave(self) -> None:
        """After Ctrl-C: send no more, name the rows that go on at the service, and cancel them after a second one."""
        self._batch.stop()
        left, unsent, batches = self._batch.in_flight, self._batch.unsent, self._batch.batches
        report(f"\nInterrupted: {self._done} of {self._total} rows done.")
        if unsent:
            report(f"{unsent} not sent. The same command sends them.")
        if not left:
            return
        report(
            f"{left} go on at the service ({', '.join(batches) or 'just sent'}). The same command fetches them."
        )
        if not sys.stderr.isatty():
            return
        report(f"Ctrl-C again within {AGAIN:.0f} seconds cancels them there.")
        try:
            self._save_for(AGAIN)
        except KeyboardInterrupt:
            self._cancel()

    def _cancel(self) -> None:
        """Cancel, and wait until the service has no row of the batch, or until Ctrl-C. Then name what remains."""
        report("Cancelling… Ctrl-C again waits no longer.")
        try:
            self._batch.cancel()
            self._save_for(float("inf"))
        except ReplicateConcurrentError as error:
            report(f"rcg: {error}")
        except KeyboardInterrupt:
            report("")
        states = Counter(each.line.status for each in self._batch.outcomes() if each.line is not None)
        report(f"{states['canceled']} cancelled, {states['succeeded']} done.")
        if left := self._batch.in_flight:
            report(
                f"{left} may still run at the service ({', '.join(self._batch.batches) or 'just sent'}). "
                "`rcg list` shows them, and the same command fetches them."
            )

    def _save_for(self, seconds: float) -> None:
        deadline = self._clock() + seconds
        while not self._batch.is_over and (left := deadline - self._clock()) > 0:
            self._took(self._batch.next(timeout=min(0.25, left)))


def _line(outcome: Outcome, trouble: str, out: Path) -> dict[str, Any]:
    """A result as a JSON line of its own."""
    line = outcome.line
    found = {
        "index": outcome.row.index,
        "row": outcome.row.place,
        "id": line.generation if line else None,
        "status": "unsaved" if trouble else "lost" if line and line.lost else line.status if line else None,
        "files": [(out / name).as_posix() for name in line.files] if line else [],
        "cost_usd": line.cost_usd if line else 0.0,
        "prompt": outcome.row.request.get("prompt"),
    }
    error = {"code": outcome.code, "detail": trouble or outcome.trouble}
    return found | ({"error": error} if error["detail"] else {})


def finish(batch: BatchRun, command: BatchCommand, status: int) -> int:
    """Write the summary. Returns the exit status."""
    outcomes = batch.outcomes()
    failed = [each for each in outcomes if each.line is not None and each.line.has_failed]
    file = summary.keep_failures(outcomes, command.out, command.input)
    if command.contact_sheet:
        report(f"Contact sheet: {summary.keep_contact_sheet(outcomes, command.out, command.input)}")
    if status == INTERRUPTED:
        return status
    done = sum(each.is_done for each in outcomes)
    unsaved = len(outcomes) - done - len(failed)
    _table(outcomes, failed)
    cost = sum(each.line.cost_usd for each in outcomes if each.line)
    parts = [
        f"{done} of {len(outcomes)} rows done",
        f"{len(failed)} failed" if failed else "",
        f"{usd(cost)} USD",
    ]
    report(f"{', '.join(part for part in parts if part)}: {command.out}")
    if failed:
        report(f"{file} has the failed rows; --retry-failed makes them again.")
    if unsaved:
        report(f"{unsaved} rows could not be saved; the same command tries them again.")
    return FAILED if failed or unsaved else 0


def _table(outcomes: Iterable[Outcome], failed: list[Outcome]) -> None:
    """On a terminal: the rows of each model, and the first failures."""
    if not sys.stderr.isatty():
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(stderr=True)
    models = Table("model", "rows", "done", "failed", "USD", box=box.SIMPLE_HEAD, pad_edge=False)
    sums: dict[str, list[float]] = {}
    for each in outcomes:
        found = sums.setdefault(str(each.row.request["model_name"]), [0, 0, 0, 0.0])
        own = (
            1,
            each.is_done,
            bool(each.line and each.line.has_failed),
            each.line.cost_usd if each.line else 0.0,
        )
        found[:] = [before + now for before, now in zip(found, own, strict=True)]
    for model, (count, done, lost, cost) in sums.items():
        models.add_row(Text(model), f"{count:.0f}", f"{done:.0f}", f"{lost:.0f}", usd(cost) or "")
    console.print(models)
    for each in failed[:_SHOWN_FAILURES]:
        console.print(Text(visible(f"{each.row.place}: {each.trouble}"), style="red"))
    if len(failed) > _SHOWN_FAILURES:
        console.print(f"(and {len(failed) - _SHOWN_FAILURES} more)")
