"""Handles of work at the service, which a script keeps while the work goes on, and can make again from an id."""

from __future__ import annotations

from replicate_concurrent.operations import generating
from replicate_concurrent.operations.drivers import AsyncDriver, Driver
from replicate_concurrent.operations.sending import Service
from replicate_concurrent.results import Generation


class Handle:
    """A generation at the service."""

    def __init__(self, id: str, service: Service, driver: Driver) -> None:  # noqa: A002 - the service's name for it
        self.id = id
        self._service = service
        self._driver = driver

    def __repr__(self) -> str:
        return f"Handle({self.id!r})"

    def wait(self, timeout: float | None = None) -> Generation:
        """The generation with its outputs. Raises ApiError if it failed, and TimedOut after `timeout` seconds."""
        return self._driver.run(generating.wait(self._service, self.id, timeout=timeout))

    def status(self) -> Generation:
        """The generation as it is now. A failed one has its `error`."""
        return self._driver.run(generating.look(self._service, self.id))

    def cancel(self) -> Generation:
        """Cancel it. Returns it as it then is: one that had ended stays as it was."""
        return self._driver.run(generating.cancel(self._service, self.id))


class AsyncHandle:
    """A generation at the service, for AsyncClient."""

    def __init__(self, id: str, service: Service, driver: AsyncDriver) -> None:  # noqa: A002 - the service's name for it
        self.id = id
        self._service = service
        self._driver = driver

    def __repr__(self) -> str:
        return f"AsyncHandle({self.id!r})"

    async def wait(self, timeout: float | None = None) -> Generation:
        """The generation with its outputs. Raises ApiError if it failed, and TimedOut after `timeout` seconds."""
        return await self._driver.run(generating.wait(self._service, self.id, timeout=timeout))

    async def status(self) -> Generation:
        """The generation as it is now. A failed one has its `error`."""
        return await self._driver.run(generating.look(self._service, self.id))

    async def cancel(self) -> Generation:
        """Cancel it. Returns it as it then is: one that had ended stays as it was."""
        return await self._driver.run(generating.cancel(self._service, self.id))
