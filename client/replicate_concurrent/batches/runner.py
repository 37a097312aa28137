"""A batch that cannot be lost: planned, sent, followed, and its files saved as they come.

Before a row is sent, its key is on the disk. So after the end of this process, however it ends, a later run looks
its rows up by id at the service, joins those that still run, and sends the others. No row is made twice.

    with BatchRun(client, rows, directory) as run:
        run.forecast                      # the cost of the new rows; no money is spent so far
        for ended in run.results(): ...   # sends, follows and saves; may be left at any time
        run.outcomes()
"""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from replicate_concurrent.batches import planning
from replicate_concurrent.batches.following import Accepted, Arrived, Begun, Follower, News, Over, Unknown
from replicate_concurrent.batches.manifest import UNKNOWN, Line, Manifest
from replicate_concurrent.batches.naming import Names
from replicate_concurrent.batches.rows import Row
from replicate_concurrent.batches.saving import Saved, Savers, remove_partial
from replicate_concurrent.batches.summary import Outcome
from replicate_concurrent.client import Client
from replicate_concurrent.filenames import BATCH
from replicate_concurrent.results import Generation

_SAVING: Final = 8
"""Generations whose files are fetched at once."""

_POLL: Final = 0.5
"""Seconds until a wait for news is begun again, since Windows interrupts none."""


@dataclass(frozen=True)
class Ended:
    """A row that has ended. `generation` is None if the service does not know it any more. `trouble` is the reason why
    its files could not be saved, which the next run tries again; it is empty otherwise."""

    outcome: Outcome
    generation: Generation | None = None
    trouble: str = ""


class BatchRun:
    """A run of a batch. It has the directory for itself until it is closed.

    Args:
        client: Calls the service.
        rows: The rows, as `rows.made` makes them.
        directory: Where files and the manifest go. It is made.
        name: The template of the names of files.
        retry_failed: Whether rows that failed in an earlier run are made again.
        options: Further fields of the batch, such as `max_concurrent` and `max_cost_usd`. With `max_concurrent`, a
            second batch, for rows that do not fit into one, is sent when the first has ended.
        at: The Unix time.

    Raises:
        ManifestError: If the manifest cannot be used.
        RowsRefused: If the service would refuse new rows.
        ReplicateConcurrentError: If the service cannot be reached.
    """

    def __init__(
        self,
        client: Client,
        rows: Sequence[Row],
        directory: Path,
        *,
        name: str = BATCH,
        retry_failed: bool = False,
        options: Mapping[str, Any] | None = None,
        at: float | None = None,
    ) -> None:
        self._directory = directory
        self._rows = {row.digest: row for row in rows}
        self._at = time.time() if at is None else at
        self._name = name
        self._manifest = Manifest(directory)
        self.earlier_name = self._manifest.template if self._manifest.template != name else ""
        """The template of the names that rows of earlier runs keep; empty if it is that of this run."""
        try:
            self._names = Names(directory, name, self._manifest.taken())
            self.standing = planning.standing(rows, self._manifest, directory, retry_failed=retry_failed)
            self.forecast = planning.forecast(client, self.standing.new, options or {})
        except BaseException:
            self._manifest.close()
            raise
        self._lines = self._manifest.latest()
        self._news: queue.SimpleQueue[News | Saved] = queue.SimpleQueue()
        self._follower = Follower(client, self._news, options or {}, at=self._at)
        self._savers = Savers(directory, self._news, count=_SAVING)
        self._left = 0
        """What has not reported its end: sources of news, and generations whose files are fetched."""
        self._not_ended = 0
        """Rows, sent or not."""

    def __enter__(self) -> BatchRun:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._follower.stop()
        self._savers.close()
        self._manifest.sync()
        self._manifest.close()

    @property
    def batches(self) -> list[str]:
        """The ids of the batches at the service with rows of this run that may not have ended."""
        return list(dict.fromkeys(self._follower.batches))

    @property
    def unsent(self) -> int:
        """Rows that are still to be sent. If this run stops before, a later one sends them."""
        return self._follower.unsent

    @property
    def in_flight(self) -> int:
        """Rows at the service that have not ended."""
        return self._not_ended - self.unsent

    @property
    def is_over(self) -> bool:
        """Whether each row that was sent has ended and is saved."""
        return self._left == 0

    def outcomes(self) -> list[Outcome]:
        """All rows, in order, as they stand now."""
        return [Outcome(row, self._lines.get(digest)) for digest, row in self._rows.items()]

    def start(self) -> None:
        """Write the new rows to the manifest, send them, and look up those of earlier runs.

        Raises:
            ValueError: If a value of a row does not fit the template of names. No row is sent then.
        """
        begun = [self._begun(row) for row in self.standing.new]
        self._manifest.begin(begun, self._name)
        for folder in {(self._directory / line.name).parent for line in self._manifest.lines.values()}:
            remove_partial(folder)
        self._lines |= {line.digest: line for line in begun}
        opened = [each.line for each in self.standing.open if each.line is not None]
        self._not_ended = len(begun) + len(opened)
        self._left = self._follower.start(opened, begun, self._rows)

    def next(self, *, timeout: float = _POLL) -> Ended | None:
        """The next row that has ended and is saved; None if there was none for so many seconds, or the run is over.

        Raises:
            ReplicateConcurrentError: If the service refuses the rows, or cannot be reached. Work there goes on.
        """
        deadline = time.monotonic() + timeout
        while not self.is_over:
            try:
                news = self._news.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                return None
            ended = self._taken(news)
            if ended is not None:
                return ended
        return None

    def results(self) -> Iterator[Ended]:
        """Start, and give each row when it has ended and is saved. Raises as `start` and `next`."""
        self.start()
        while not self.is_over:
            ended = self.next()
            if ended is not None:
                yield ended

    def stop(self) -> None:
        """Send no more rows. `next` goes on with what was sent."""
        self._follower.stop()

    def cancel(self) -> None:
        """Cancel what has not ended, and send no more. The service may take ten seconds to answer.

        Raises:
            ReplicateConcurrentError: The first error of a request, once all that can be is cancelled.
        """
        self._follower.cancel()

    def _begun(self, row: Row) -> Line:
        earlier = self._lines.get(row.digest)
        name = self._names.reserve(row) if earlier is None else earlier.name
        attempts = 0 if earlier is None else self._manifest.attempts(row.digest)
        key = self._manifest.key(row.digest, attempts)
        return Line(key, row.digest, row.index, name, round(self._at, 3))

    def _taken(self, news: News | Saved) -> Ended | None:
        """The row that has ended with these news, if one has."""
        if isinstance(news, Over):
            self._left -= 1
            if news.error is not None:
                raise news.error
            return None
        if isinstance(news, Begun):
            self._left += 1
            return None
        if isinstance(news, Accepted):
            self._manifest.accepted(news.batch, news.keys)
            return None
        line = self._manifest.lines[news.key]
        if isinstance(news, Arrived):
            self._left += 1
            self._not_ended -= 1
            count = len(news.generation.files or news.generation.output)
            name = self._names.of_outputs(line.name, count, line.files)
            self._savers.save(news, name)
            return None
        if isinstance(news, Unknown):
            self._not_ended -= 1
            return self._ended(replace(line, status=UNKNOWN, error=news.error), None)
        self._left -= 1
        return self._ended(replace(line, **news.facts), news.generation, news.trouble)

    def _ended(self, line: Line, generation: Generation | None, trouble: str = "") -> Ended:
        self._manifest.ended(line)
        self._lines[line.digest] = line
        return Ended(Outcome(self._rows[line.digest], line), generation, trouble)
