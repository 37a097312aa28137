"""Reads the sources of secrets periodically, and reports each change.

Sources are compared by content. Modification times do not show that Kubernetes swaps a link, and a watch of the kernel
does not see changes in a network's file system. While a source has no usable secret, the last good one stays.
"""

import asyncio
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Executor
from functools import partial
from typing import Final

import structlog

from loop_thread import Pool
from settings.sources import SecretSource, SecretUnreadable

PAUSE: Final = 10.0
"""Seconds between two readings."""

LEAST_PAUSE: Final = 1.0
"""Seconds between two readings if a secret was refused, and a newer one may be there."""

log = structlog.get_logger("secrets")

Change = Callable[[str, str], Awaitable[None]]


class SecretWatch:
    """Watches `sources`, by the name of the setting. `values` are the secrets that the service has now.

    `check(name, text)` returns the value that a text means, or raises ValueError. `on_change(name, value)` uses a new
    value; it raises ValueError if the value cannot be used. The texts of both errors are logged as reasons. Use it on
    the loop. Sources are read on `executor`, which ends with `close`: a reading may take long, and no other work should
    wait for it. `run` awaits `before()`, if there is one, at the start and after each reading."""

    def __init__(
        self,
        sources: Mapping[str, SecretSource],
        values: Mapping[str, str],
        *,
        check: Callable[[str, str], str],
        on_change: Change,
        executor: Executor,
        before: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._sources = dict(sources)
        self._values = dict(values)
        self._check = check
        self._on_change = on_change
        self._threads = Pool(executor)
        self._before = before
        self._troubles: dict[str, str] = {}
        self._reading = asyncio.Lock()
        self._began = -math.inf
        """When the latest reading began, by the loop's clock."""
        self._readings: Counter[str | None] = Counter()
        """How many have begun, by the setting of the refused secret; None for those of all."""

    @property
    def troubles(self) -> Mapping[str, str]:
        """Why a source has no usable secret now, by the name of its setting."""
        return self._troubles

    def close(self) -> None:
        """End the thread that reads."""
        self._threads.close()

    async def run(self) -> None:
        """Read all sources until this is cancelled."""
        if not self._sources:
            return
        while True:
            if self._before is not None:
                try:
                    await self._before()
                except Exception:
                    log.exception("secret_watch_failed")
            await asyncio.sleep(PAUSE)
            await self.look()

    async def look(self, refused: str | None = None) -> None:
        """Read all sources, or only that of a setting with a refused secret, by a reading that begins after this
        call. Calls at one time share one. Returns at once if there is no source."""
        names = list(self._sources) if refused is None else [refused] if refused in self._sources else []
        if not names:
            return
        now, before = asyncio.get_running_loop().time, self._readings[refused]
        async with self._reading:
            if self._readings[refused] > before:
                return
            if (pause := self._began + LEAST_PAUSE - now()) > 0:
                await asyncio.sleep(pause)
            self._began = now()
            self._readings[refused] += 1
            for name in names:
                await self._read(name, fresh=refused is not None)

    async def _read(self, name: str, *, fresh: bool) -> None:
        try:
            text = await self._threads.run(partial(self._sources[name].read, fresh=fresh))
            value = self._check(name, text)
            if value != self._values[name]:
                await self._on_change(name, value)
                log.info("secret_changed", setting=name)
                self._values[name] = value
        except (SecretUnreadable, ValueError) as error:
            self._report(name, str(error))
        except Exception:
            log.exception("secret_watch_failed", setting=name)
        else:
            if self._troubles.pop(name, None) is not None:
                log.info("secret_readable", setting=name)

    def _report(self, name: str, reason: str) -> None:
        if self._troubles.get(name) != reason:
            self._troubles[name] = reason
            log.warning("secret_unreadable", setting=name, reason=reason)
