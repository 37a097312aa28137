"""Keeps the weights that trainings made, since Replicate deletes them after an hour.

The file is downloaded as outputs are (`hosts.py`, `spool.py`), but always into a temporary file, and without a limit of
all files together. It is checked, and downloaded again if it is not whole. It is then stored in a directory
(`weights_directory.py`) or in the bucket of outputs, until `ttl` seconds have passed or it is removed.

A training may have cost dollars, so its weights are tried for longer than an output.
"""

import asyncio
import errno
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Protocol

import structlog

from datasets.refusals import WeightsBroken
from files.download import RetryPolicy
from files.hosts import OutputResponse, OutputUnavailable, TemporarilyUnavailable
from files.spool import Spool, SpooledOutput
from files.storage import FileStorage, OpenFile
from files.volume import DiskUsage, NoRoom, Volume
from files.weights_directory import WeightsName, name_of
from loop_thread import Pool
from network.backoff import backoff

MAX_BYTES: Final = 10 * 2**30
"""Bytes of the largest file. Those of LoRAs have some hundred MB."""

RETRY_POLICY: Final = RetryPolicy(
    max_attempts=10, first_backoff=2.0, attempt_timeout=1800.0, total_timeout=3600.0
)
"""Replicate deletes the file after an hour, so no attempt begins later. One that has begun may end later."""

_LONGEST_BACKOFF: Final = 60.0
"""Seconds."""

TIDY_EVERY: Final = 600.0
"""Seconds between two removals of expired files and of abandoned temporary files."""

_THREADS: Final = 4

_NEEDS_TOKEN: Final = {401, 403, 404}
"""Statuses with which a host may refuse a file of an account to a request without its token."""

_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_READ_ONLY: Final = {errno.EROFS, errno.EACCES, errno.EPERM}

_log = structlog.get_logger("files")


class WeightsUnavailable(Exception):
    """The weights cannot be downloaded or stored. The message completes the sentence "The file of the weights could not
    be kept: …"."""


class WeightsSource(Protocol):
    """Where weights come from: `OutputHosts`."""

    def get(self, url: str, *, token: str | None = None) -> AbstractAsyncContextManager[OutputResponse]: ...

    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True)
class KeptWeights:
    """The stored file of a training. `name` is the last part of its link, such as `flux-lora.tar`. `size` is in
    bytes."""

    name: str
    size: int


class WeightsStore:
    """Keeps weights in `storage`, each for `ttl` seconds (None: until it is removed).

    `spool` is the directory for temporary files, on the file system of the storage if that is a directory, and
    `disk_usage` returns the total, used and free bytes of its volume. `check` reads a whole file, and raises
    WeightsBroken if that is not whole. `retry_policy` bounds the downloads of one file. `source` is closed with this
    object. Several processes may share one storage. Use it on one loop; only `open` is safe on any thread.
    """

    def __init__(
        self,
        *,
        storage: FileStorage,
        spool: Path,
        source: WeightsSource,
        check: Callable[[Path], object],
        ttl: float | None = None,
        disk_usage: DiskUsage | None = None,
        retry_policy: RetryPolicy = RETRY_POLICY,
        clock: Callable[[], float] = time.time,
        executor: Executor | None = None,
    ) -> None:
        if ttl is not None and ttl <= 0:
            raise ValueError(f"ttl must be above 0, got {ttl}")
        self._storage = storage
        self._source = source
        self._check = check
        self._ttl = ttl
        self._retry_policy = retry_policy
        self._clock = clock
        self._pool = Pool(executor or ThreadPoolExecutor(_THREADS, thread_name_prefix="weights"))
        self._volume = Volume(disk_usage)
        self._spool = Spool(spool, self._pool, self._volume)

    async def keep(self, training_id: str, url: str, *, token: str | None = None) -> KeptWeights:
        """Download the weights of a training, check them, and store them. If they are stored already, as by a process
        that crashed then, only return their name and size.

        `token` is sent to Replicate's hosts, if they refuse the file without it. Raises WeightsUnavailable, and
        ValueError if the id is malformed."""
        name = name_of(training_id, url)
        try:
            return await self._kept(name) or await self._keep(name, url, token)
        except WeightsUnavailable as reason:
            _log.warning("weights_unavailable", generation=training_id, reason=str(reason))
            raise
        except OSError as error:
            _log.error("weights_store_failed", generation=training_id, error=str(error))
            raise WeightsUnavailable(_reason(error)) from error
        except Exception as error:
            _log.exception("weights_store_failed", generation=training_id)
            raise WeightsUnavailable("something went wrong inside this service") from error

    def open(self, training_id: str, name: str) -> OpenFile | None:
        """Open the weights of a training by the name in their link. Returns None if they do not exist or have expired.
        Blocks; safe on any thread. Raises OSError if the storage fails."""
        try:
            opened = self._storage.open(f"{training_id}/{name}")
        except ValueError:
            return None
        if opened is not None and self._has_expired(opened.modified):
            opened.close()
            return None
        return opened

    async def remove(self, training_id: str, name: str) -> None:
        """Delete the weights of a training by the name in their link, if they exist. Raises OSError if the storage
        fails."""
        await self._delete([f"{training_id}/{name}"])

    async def run(self) -> None:
        """Tidy up every ten minutes, without end."""
        while True:
            try:
                await self.tidy()
            except Exception as error:
                _log.error("weights_tidy_failed", error=str(error), exc_info=not isinstance(error, OSError))
            await asyncio.sleep(TIDY_EVERY)

    async def tidy(self) -> None:
        """Delete expired weights, and temporary files that crashed processes left. Raises OSError."""
        await self._pool.run(partial(self._spool.sweep, self._clock()))
        if self._ttl is None:
            return
        stored = await self._pool.run(lambda: list(self._storage.list()))
        expired = [each.name for each in stored if self._has_expired(each.modified)]
        await self._delete(expired)
        if expired:
            _log.info("weights_expired", files=len(expired))

    async def aclose(self) -> None:
        """Close connections and threads. No `keep` may be running."""
        await self._source.aclose()
        self._pool.close()

    async def _delete(self, names: list[str]) -> None:
        for name in names:
            await self._pool.run(partial(self._storage.delete, name))

    async def _kept(self, name: WeightsName) -> KeptWeights | None:
        """The weights, if they are stored already."""
        with suppress(OSError):  # of a bucket, which may recover while they are downloaded
            opened = await self._pool.run(partial(self.open, name.training, name.file))
            if opened is not None:
                opened.close()
                return KeptWeights(name.file, opened.size)
        return None

    def _has_expired(self, modified: float) -> bool:
        return self._ttl is not None and self._clock() - modified >= self._ttl

    async def _keep(self, name: WeightsName, url: str, token: str | None) -> KeptWeights:
        loop, policy = asyncio.get_running_loop(), self._retry_policy
        until = loop.time() + policy.total_timeout
        failure = OutputUnavailable("it took too long")
        async with self._spool.output() as output:
            for failed in range(policy.max_attempts):
                if failed:
                    await asyncio.sleep(backoff(failed, first=policy.first_backoff, longest=_LONGEST_BACKOFF))
                if loop.time() >= until:
                    break
                try:
                    await self._try(name, url, token, output)
                except OutputUnavailable as error:
                    if not _is_temporary(error):
                        raise WeightsUnavailable(str(error)) from error
                    failure = error
                    _log.info(
                        "weights_interrupted", generation=name.training, tried=failed + 1, reason=str(error)
                    )
                else:
                    return KeptWeights(name.file, output.size)
        raise WeightsUnavailable(str(failure)) from failure

    async def _try(self, name: WeightsName, url: str, token: str | None, output: SpooledOutput) -> None:
        """Raises OutputUnavailable, and OSError if the disk is full or fails."""
        try:
            async with asyncio.timeout(self._retry_policy.attempt_timeout):
                await self._download(url, token, output)
        except TimeoutError as error:
            raise TemporarilyUnavailable("it took too long") from error
        try:
            await output.check(self._check)
        except WeightsBroken as error:
            raise TemporarilyUnavailable(f"it is broken: {error}") from error
        try:
            await output.store(self._storage, str(name))
        except OSError as error:
            if error.errno is None:  # of a bucket, which may recover
                raise TemporarilyUnavailable("it could not be stored") from error
            raise

    async def _download(self, url: str, token: str | None, output: SpooledOutput) -> None:
        try:
            await self._receive(url, None, output)
        except OutputUnavailable as refusal:
            if token is None or refusal.status not in _NEEDS_TOKEN:
                raise
            await self._receive(url, token, output)

    async def _receive(self, url: str, token: str | None, output: SpooledOutput) -> None:
        await output.begin()
        async with self._source.get(url, token=token) as response:
            _check_size(response.length or 0)
            if (response.length or 0) > await self._pool.run(self._volume.room):
                raise NoRoom(response.length or 0)
            async for chunk in response.chunks:
                _check_size(output.size + len(chunk))
                await output.write(chunk)


def _is_temporary(error: OutputUnavailable) -> bool:
    """Whether a further try may succeed. Some hosts refuse a new file until it has reached them."""
    return isinstance(error, TemporarilyUnavailable) or error.status in _NEEDS_TOKEN


def _check_size(size: int) -> None:
    if size > MAX_BYTES:
        raise OutputUnavailable(f"it is larger than {MAX_BYTES // 2**30} GiB")


def _reason(error: OSError) -> str:
    if error.errno in _FULL:
        return "the disk of the service is full"
    if error.errno in _READ_ONLY:
        return "the disk of the service is not writable"
    return "it could not be stored"
