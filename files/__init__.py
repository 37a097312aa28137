"""Stores the outputs of generations, since Replicate deletes them after an hour.

An output is downloaded without a token (`hosts.py`), and its media type is detected (`download.py`). A small one is in
memory until it is complete, a larger one in a temporary file (`spool.py`). It is then stored (`directory.py`,
`bucket.py`) under the unguessable id of its generation, and expires after `ttl` seconds. The oldest files are evicted
earlier if all files together exceed `max_bytes`, or if the volume is nearly full (`volume.py`).

An output that cannot be stored is not an error of its generation, which was made and paid for: `keep` returns the
reason. Several processes may share one storage. Each lists it every hour to see the files of the others, and more often
if it stores many itself. All evict the oldest first, and a file that another process has deleted frees nothing.
"""

import asyncio
import errno
import math
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from files.download import Downloads, RetryPolicy
from files.hosts import OutputHosts, OutputUnavailable
from files.index import FileIndex
from files.names import stored_name
from files.spool import MAX_DOWNLOADS, Spool, SpooledOutput
from files.storage import MAX_OUTPUTS, FileStorage, OpenFile, StoredFile, parse_name
from files.volume import DiskUsage, Volume
from loop_thread import Pool
from media.files import file_type
from media.formats import HEAD, MediaType

MAX_OUTPUT_BYTES: Final = 1_000_000_000

TIDY_EVERY: Final = 60.0
"""Seconds between two removals of expired files."""

LIST_EVERY: Final = 3600.0
"""Seconds between two listings of the storage."""

_UNLISTED: Final = 0.05
"""The share of `max_bytes` that a process stores before it lists a shared storage again. Meanwhile the others may have
stored as much."""

WARN_EVERY: Final = 3600.0
"""Seconds between two warnings that evictions cannot restore the reserve."""

_BATCH: Final = 100
"""Files that are deleted in one batch."""

_log = structlog.get_logger("files")


@dataclass(frozen=True, slots=True)
class StoredOutputs:
    """The stored outputs of a generation. `names` has a name such as `0.webp` for each output, or None if it could not
    be stored. `error` then gives the reasons, in a sentence for the caller. `missing` has the numbers (from 0) of the
    outputs whose URLs have no output."""

    names: tuple[str | None, ...]
    error: str | None
    missing: frozenset[int] = frozenset()


class Files:
    """Keeps outputs in `storage`, each for `ttl` seconds and all of them within `max_bytes`.

    `spool` is the directory for temporary files, on the file system of the `Directory` if that is the storage. `source`
    is closed with this object. `disk_usage` returns the total, used and free bytes of the volume; without it, no
    reserve is left free. `shared` says that other processes may store in the same storage. Use it on one loop; only
    `open` is safe on any thread.
    """

    def __init__(
        self,
        *,
        storage: FileStorage,
        spool: Path,
        source: OutputHosts,
        ttl: float,
        max_bytes: int,
        retry_policy: RetryPolicy | None = None,
        disk_usage: DiskUsage | None = None,
        shared: bool = False,
        clock: Callable[[], float] = time.time,
        executor: Executor | None = None,
    ) -> None:
        if ttl <= 0:
            raise ValueError(f"ttl must be above 0, got {ttl}")
        if max_bytes < 1:
            raise ValueError(f"max_bytes must be at least 1, got {max_bytes}")
        retry_policy = retry_policy or RetryPolicy()
        self._storage = storage
        self._ttl = ttl
        self._max_bytes = max_bytes
        self._volume = Volume(disk_usage)
        self._shared = shared
        self._clock = clock
        # One thread for each download, so that a slow upload to a bucket never delays a write. Two for the janitor.
        self._pool = Pool(executor or ThreadPoolExecutor(MAX_DOWNLOADS + 2, thread_name_prefix="files"))
        self._spool = Spool(spool, self._pool, self._volume, self._room)
        self._source = source
        self._downloads = Downloads(
            source, largest=min(MAX_OUTPUT_BYTES, max_bytes), retry_policy=retry_policy, pool=self._pool
        )
        self._index = FileIndex()
        self._deleting = asyncio.Lock()
        self._making_room = asyncio.Lock()
        self._listed_at = -math.inf
        self._stored = 0
        """Bytes that this process has stored since the last listing began."""
        self._warn_at = -math.inf
        self._janitor: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """List the storage, and start the janitor. If the storage fails, it is listed again later."""
        await self._list()
        room = self._index.size + await self._pool.run(self._volume.room)
        if self._max_bytes > room:
            _log.warning("files_exceed_volume", max_bytes=self._max_bytes, room=max(0, room))
        self._janitor = asyncio.create_task(self._tidy_up(), name="files-janitor")

    async def keep(
        self, generation_id: str, outputs: Sequence[str], *, any_type: bool = False
    ) -> StoredOutputs:
        """Download all outputs of a generation (URLs or `data:` URIs) and store them: pictures and films, or files of
        `any_type`. Failures are in the result; only CancelledError is raised."""
        found = await self._keep_all(generation_id, outputs, any_type)
        await self._evict()
        results = [self._unless_evicted(generation_id, each) for each in found]
        lost = {number: each for number, each in enumerate(results) if isinstance(each, OutputUnavailable)}
        reasons = list(dict.fromkeys(map(str, lost.values())))
        names = tuple(None if isinstance(each, OutputUnavailable) else each for each in results)
        missing = frozenset(number for number, each in lost.items() if each.missing)
        return StoredOutputs(names, _sentence(names, reasons) if reasons else None, missing)

    async def put(self, generation_id: str, number: int, content: bytes) -> str:
        """Store content that this service made as an output, and return its name. Raises OSError if the storage fails,
        and ValueError if the id is malformed."""
        media = file_type(content[:HEAD])
        if len(content) > self._max_bytes:
            raise OSError(errno.EFBIG, f"it is larger than {self._max_bytes} bytes")
        async with self._spool.output() as output:
            await output.write(content)
            name = await self._store(generation_id, number, media, output)
        await self._evict()
        return name

    def open(self, generation_id: str, name: str) -> OpenFile | None:
        """Open a stored output by its name in the storage, or in a link. Returns None if it does not exist or has
        expired. Blocks; safe on any thread. Raises OSError if the storage fails."""
        try:
            opened = self._storage.open(f"{generation_id}/{stored_name(generation_id, name)}")
        except ValueError:
            return None
        if opened is not None and self._clock() - opened.modified >= self._ttl:
            opened.close()
            return None
        return opened

    @property
    def number_kept(self) -> int:
        """How many files are known to be in the storage."""
        return len(self._index)

    async def aclose(self) -> None:
        """Stop the janitor, and close connections and threads. No `keep` or `put` may be running."""
        if self._janitor is not None:
            self._janitor.cancel()
            with suppress(asyncio.CancelledError):
                await self._janitor
        await self._source.aclose()
        self._pool.close()

    async def _keep_all(
        self, generation_id: str, outputs: Sequence[str], any_type: bool
    ) -> list[str | OutputUnavailable]:
        if len(outputs) == 1:  # as most are, so a task of its own would be a tenth of the work
            return [await self._keep(generation_id, 0, outputs[0], any_type)]
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._keep(generation_id, number, url, any_type))
                for number, url in enumerate(outputs)
            ]
        return [task.result() for task in tasks]

    async def _keep(
        self, generation_id: str, number: int, url: str, any_type: bool
    ) -> str | OutputUnavailable:
        try:
            if number >= MAX_OUTPUTS:
                return OutputUnavailable(f"more than {MAX_OUTPUTS} outputs are not kept")
            async with self._spool.output() as output:
                media = await self._downloads.fetch(url, output, any_type=any_type)
                return await self._store(generation_id, number, media, output)
        except OutputUnavailable as reason:
            _log.warning("output_fetch_failed", generation=generation_id, number=number, reason=str(reason))
            return reason
        except OSError as error:
            _log.error("output_store_failed", generation=generation_id, number=number, error=str(error))
            return OutputUnavailable("it could not be stored")
        except Exception:
            _log.exception("output_fetch_failed", generation=generation_id, number=number)
            return OutputUnavailable("something went wrong inside this service")

    async def _store(self, generation_id: str, number: int, media: MediaType, output: SpooledOutput) -> str:
        name = parse_name(f"{generation_id}/{number}{media.extension}")
        try:
            await output.store(self._storage, str(name))
        finally:
            if output.is_stored:  # also if this was cancelled meanwhile
                self._index.add(StoredFile(str(name), output.size, self._clock()))
                self._stored += output.size
        return name.file

    def _unless_evicted(self, generation_id: str, result: str | OutputUnavailable) -> str | OutputUnavailable:
        """The result, unless the file was evicted meanwhile: outputs of one generation may evict each other."""
        if isinstance(result, OutputUnavailable) or f"{generation_id}/{result}" in self._index:
            return result
        return OutputUnavailable("there is no room for it")

    async def _tidy_up(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._delete(
                "files_expired", lambda _: self._index.expired(self._clock() - self._ttl, most=_BATCH)
            )
            await self._make_room()
            await asyncio.sleep(TIDY_EVERY)
            many = self._shared and self._stored > _UNLISTED * self._max_bytes
            if many or loop.time() >= self._listed_at + LIST_EVERY:
                await self._list()

    async def _list(self) -> None:
        """List the files of all processes, and delete abandoned temporary files."""
        since, stored = self._clock(), self._stored
        try:
            removed = await self._pool.run(partial(self._spool.sweep, since))
            listed = await self._pool.run(lambda: list(self._storage.list()))
        except Exception as error:
            _log.error("files_list_failed", error=str(error), exc_info=not isinstance(error, OSError))
            return
        self._listed_at = asyncio.get_running_loop().time()
        self._stored -= stored
        self._index.replace(listed, since=since)
        _log.debug("files_listed", files=len(self._index), bytes=self._index.size, stale=removed)

    async def _make_room(self, wanted: int = 0) -> None:
        """Evict the oldest files until the others fit into `max_bytes`, and `wanted` bytes are free beyond the reserve.
        If even deleting all files could not restore the reserve, none is deleted for it."""
        short = wanted - await self._pool.run(self._volume.room)
        if short > 0 and self._shared and asyncio.get_running_loop().time() > self._listed_at + TIDY_EVERY:
            await self._list()  # so that it counts the files of others, and none that they have deleted
        if short > self._index.size:
            self._warn_of_reserve(short)
            short = 0
        if short > 0:
            _log.warning("files_reserve_short", short=short, bytes=self._index.size)
        await self._evict(short)

    async def _evict(self, short: float = 0) -> None:
        """Evict the oldest files until the others fit into `max_bytes`, and `short` bytes of the volume are freed."""
        size = self._index.size
        if short <= 0 and size <= self._max_bytes:
            return  # early, since the janitor may hold the lock

        def choose(gone: int) -> list[str]:
            # `short` is not measured again: deleted files that are open for reading still take space on the volume.
            left = size - short - gone if short > 0 else math.inf
            return self._index.excess(min(left, self._max_bytes), most=_BATCH)

        await self._delete("files_evicted", choose)

    def _warn_of_reserve(self, short: float) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._warn_at:
            self._warn_at = now + WARN_EVERY
            _log.warning("files_reserve_unreachable", short=short, bytes=self._index.size)

    @asynccontextmanager
    async def _room(self, wanted: int) -> AsyncIterator[None]:
        """Make room on the volume, if evictions can, and promise it to a write inside the block, so that no other write
        takes it."""
        async with self._making_room:
            with self._volume.promise(wanted):
                await self._make_room(wanted)
                yield

    async def _delete(self, event: str, choose: Callable[[int], list[str]]) -> None:
        """Delete the chosen files in batches, until none is left or a batch fails. The next call retries a failed
        batch. `choose` gets the bytes of the chosen files that were gone already, since another process had deleted
        them."""
        gone = 0
        while True:
            async with self._deleting:
                names = choose(gone)
                if not names:
                    return
                try:
                    deleted = await self._pool.run(partial(_delete_all, self._storage, names))
                except Exception as error:
                    _log.error(
                        "files_delete_failed", error=str(error), exc_info=not isinstance(error, OSError)
                    )
                    return
                for name in names:
                    size = self._index.remove(name)
                    gone += 0 if name in deleted else size
                if deleted:
                    _log.info(event, files=len(deleted), left=len(self._index), bytes=self._index.size)


def _delete_all(storage: FileStorage, names: list[str]) -> set[str]:
    """Returns the names of the files that were there."""
    return {name for name in names if storage.delete(name)}


def _sentence(names: Sequence[str | None], reasons: Sequence[str]) -> str:
    lost = sum(name is None for name in names)
    which = "The output" if len(names) == 1 else f"{lost} of {len(names)} outputs"
    return f"{which} could not be kept: {'; '.join(reasons)}."
