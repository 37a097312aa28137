"""`Client`: each method runs one operation with blocking calls."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

import httpx

from replicate_concurrent import config
from replicate_concurrent.handles import Handle
from replicate_concurrent.local import find_or_start
from replicate_concurrent.operations import generating, looking
from replicate_concurrent.operations.drivers import Driver
from replicate_concurrent.operations.sending import Service
from replicate_concurrent.results import Generation


class Client:
    """A client of the service.

    Args:
        url: Its address; else that of `RCG_URL` or the configuration file, else the service of this user on this
            machine, which is started if need be.
        api_key: A key of the service, or a Replicate token; else that of `RCG_API_KEY` or the file.
        replicate_api_token: The user's own Replicate token; else that of `REPLICATE_API_TOKEN` or the file.
        timeout: Seconds that `generate` takes at most, and in which any other request must be answered. Requests are
            repeated meanwhile where that is safe.
        http: A client of httpx to use. By default one is made that takes proxies and certificates from the
            environment.

    Raises:
        ConfigError: If the address or the configuration file cannot be used.
        NoServer: If there is no address, and no service of this machine can be started.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        replicate_api_token: str | None = None,
        timeout: float = 600.0,
        http: httpx.Client | None = None,
    ) -> None:
        self._service = Service(config.load(url, api_key, replicate_api_token), timeout, find=find_or_start)
        self._driver = Driver(http)
        try:
            self._driver.run(self._service.ready())
        except BaseException:
            self._driver.close()
            raise

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. Work at the service goes on."""
        self._driver.close()

    def generate(
        self,
        prompt: str | None = None,
        *,
        model: str,
        idempotency_key: str | None = None,
        webhook: str | None = None,
        metadata: Mapping[str, str] | None = None,
        **parameters: Any,
    ) -> Generation:
        """Generate, and return the outputs. `parameters` are those of the model; files may be paths, bytes, file
        objects or PIL images.

        Raises ApiError if the request was refused or the generation failed, and TimedOut after the client's timeout.
        """
        wanted = generating.order(
            prompt,
            model,
            idempotency_key=idempotency_key,
            webhook=webhook,
            metadata=metadata,
            parameters=parameters,
        )
        return self._driver.run(generating.generate(self._service, wanted))

    def submit(
        self,
        prompt: str | None = None,
        *,
        model: str,
        idempotency_key: str | None = None,
        webhook: str | None = None,
        metadata: Mapping[str, str] | None = None,
        **parameters: Any,
    ) -> Handle:
        """Submit a generation, as `generate`, without waiting for it."""
        wanted = generating.order(
            prompt,
            model,
            idempotency_key=idempotency_key,
            webhook=webhook,
            metadata=metadata,
            parameters=parameters,
        )
        return self.handle(self._driver.run(generating.submit(self._service, wanted)).id)

    def handle(self, id: str) -> Handle:  # noqa: A002 - the service's name for it
        """The handle of the generation with this id."""
        return Handle(id, self._service, self._driver)

    def cancel(self, id: str) -> Generation:  # noqa: A002 - the service's name for it
        """Cancel the generation with this id."""
        return self.handle(id).cancel()

    def request(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """Any request to the service, with its keys and repetitions. Raises ApiError for a status from 400."""
        return self._driver.run(
            looking.request(self._service, method, path, json=json, params=params, headers=headers)
        )
