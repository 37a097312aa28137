"""`client.keys`: the named keys of the service, for its administrators."""

from __future__ import annotations

from typing import Any

from replicate_concurrent.operations import keys
from replicate_concurrent.operations.drivers import AsyncDriver, Driver
from replicate_concurrent.operations.sending import Service
from replicate_concurrent.results import Key


class Keys:
    """The named keys. `fields` are those of docs/keys.md of the service, such as `max_concurrent` or `budget_usd`."""

    def __init__(self, service: Service, driver: Driver) -> None:
        self._service = service
        self._driver = driver

    def create(self, name: str, **fields: Any) -> Key:
        """Make a key. Only this result has its text, as `key`."""
        return self._driver.run(keys.create(self._service, name, fields))

    def get(self, id: str) -> Key:  # noqa: A002 - the service's name for it
        """The key with this id, which may be deleted. Raises NotFound."""
        return self._driver.run(keys.get(self._service, id))

    def update(self, id: str, **fields: Any) -> Key:  # noqa: A002 - the service's name for it
        """Change these fields of a key. None ends a limit."""
        return self._driver.run(keys.update(self._service, id, fields))

    def rotate(self, id: str, *, grace_seconds: float = 0) -> Key:  # noqa: A002 - the service's name for it
        """Give a key a new text, as `key` of this result. The old one is accepted for `grace_seconds` more."""
        return self._driver.run(keys.rotate(self._service, id, grace_seconds))

    def delete(self, id: str) -> None:  # noqa: A002 - the service's name for it
        """Delete a key. Its waiting work is cancelled."""
        self._driver.run(keys.delete(self._service, id))

    def self(self) -> Key:
        """The key of this client. `raw` shows how much of its limits is used."""
        return self._driver.run(keys.own(self._service))

    def list(self) -> list[Key]:
        """The keys that are not deleted, the newest first."""
        return [*self._driver.iterate(keys.every(self._service))]


class AsyncKeys:
    """The named keys, for AsyncClient; see `Keys`."""

    def __init__(self, service: Service, driver: AsyncDriver) -> None:
        self._service = service
        self._driver = driver

    async def create(self, name: str, **fields: Any) -> Key:
        """Make a key. Only this result has its text, as `key`."""
        return await self._driver.run(keys.create(self._service, name, fields))

    async def get(self, id: str) -> Key:  # noqa: A002 - the service's name for it
        """The key with this id, which may be deleted. Raises NotFound."""
        return await self._driver.run(keys.get(self._service, id))

    async def update(self, id: str, **fields: Any) -> Key:  # noqa: A002 - the service's name for it
        """Change these fields of a key. None ends a limit."""
        return await self._driver.run(keys.update(self._service, id, fields))

    async def rotate(self, id: str, *, grace_seconds: float = 0) -> Key:  # noqa: A002 - the service's name for it
        """Give a key a new text, as `key` of this result. The old one is accepted for `grace_seconds` more."""
        return await self._driver.run(keys.rotate(self._service, id, grace_seconds))

    async def delete(self, id: str) -> None:  # noqa: A002 - the service's name for it
        """Delete a key. Its waiting work is cancelled."""
        await self._driver.run(keys.delete(self._service, id))

    async def self(self) -> Key:
        """The key of this client. `raw` shows how much of its limits is used."""
        return await self._driver.run(keys.own(self._service))

    async def list(self) -> list[Key]:
        """The keys that are not deleted, the newest first."""
        return [each async for each in self._driver.iterate(keys.every(self._service))]
