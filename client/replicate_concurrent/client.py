"""`Client`: each method runs one operation with blocking calls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from replicate_concurrent import config
from replicate_concurrent.handles import NAME, BatchHandle, Handle, Saver
from replicate_concurrent.local import find_or_start
from replicate_concurrent.named_keys import Keys
from replicate_concurrent.operations import batches, generating, looking, references
from replicate_concurrent.operations.drivers import Driver
from replicate_concurrent.operations.sending import Service
from replicate_concurrent.results import (
    Batch,
    Generation,
    Model,
    Plan,
    Status,
    Upload,
    Usage,
    savable,
    savable_batch,
)
from replicate_concurrent.text_methods import TextMethods
from replicate_concurrent.training_methods import TrainingMethods


class Client(TextMethods, TrainingMethods):
    """A client of the service.

    Args:
        url: Its address; else that of `RCG_URL` or the configuration file, else the service of this user on this
            machine, which is started if need be.
        api_key: A key of the service, or a Replicate token; else that of `RCG_API_KEY` or the file.
        replicate_api_token: The user's own Replicate token; else that of `REPLICATE_API_TOKEN` or the file.
        gemini_api_key: The user's own Gemini key, which pays for calls to text models in place of all others; else that
            of `GEMINI_API_KEY`, unless there is a key of the service.
        timeout: Seconds that `generate`, `chat` and `extract` take at most, and in which any other request must be
            answered. Requests are repeated meanwhile where that is safe.
        connect_timeout: Seconds after which an address that has never answered is not called again; by default
            `timeout`.
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
        gemini_api_key: str | None = None,
        timeout: float = 600.0,
        connect_timeout: float | None = None,
        http: httpx.Client | None = None,
    ) -> None:
        settings = config.load(url, api_key, replicate_api_token, gemini_api_key)
        self._service = Service(settings, timeout, find=find_or_start, connect_timeout=connect_timeout)
        self._driver = Driver(http)
        self._saver = Saver(self._service, self._driver)
        self.keys = Keys(self._service, self._driver)
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
        """Generate, and return the outputs. `parameters` are those of the model and of `POST /generate`, of which
        `timeout` is for how many seconds the prediction may run. Files may be paths (also as texts), bytes, file
        objects or images of PIL.

        Raises ApiError if the request was refused or the generation failed, and TimedOut after the client's timeout.
        """
        requested = generating.order(
            prompt,
            model,
            idempotency_key=idempotency_key,
            webhook=webhook,
            metadata=metadata,
            parameters=parameters,
        )
        return savable(self._driver.run(generating.generate(self._service, requested)), self._saver)

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
        requested = generating.order(
            prompt,
            model,
            idempotency_key=idempotency_key,
            webhook=webhook,
            metadata=metadata,
            parameters=parameters,
        )
        return self.handle(self._driver.run(generating.submit(self._service, requested)).id)

    def handle(self, id: str) -> Handle:  # noqa: A002 - the service's name for it
        """The handle of the generation with this id."""
        return Handle(id, self._service, self._driver)

    def cancel(self, id: str) -> Generation:  # noqa: A002 - the service's name for it
        """Cancel the generation with this id. Returns it as it then is."""
        return self.handle(id).cancel()

    def batch(
        self,
        prompts: Sequence[str] | None = None,
        *,
        model: str | None = None,
        requests: Sequence[Mapping[str, Any]] | None = None,
        idempotency_key: str | None = None,
        webhook: str | None = None,
        metadata: Mapping[str, str] | None = None,
        **common: Any,
    ) -> Batch:
        """Generate a batch: one model with many prompts and `common` parameters, or whole requests. Returns all
        results in input order, however long that takes. A failed item has an `error`; it does not raise.

        Raises ApiError if the batch was refused.
        """
        requested = batches.order(
            prompts,
            model,
            requests=requests,
            idempotency_key=idempotency_key,
            webhook=webhook,
            metadata=metadata,
            common=common,
        )
        return savable_batch(self._driver.run(batches.run(self._service, requested)), self._saver)

    def submit_batch(
        self,
        prompts: Sequence[str] | None = None,
        *,
        model: str | None = None,
        requests: Sequence[Mapping[str, Any]] | None = None,
        idempotency_key: str | None = None,
        webhook: str | None = None,
        metadata: Mapping[str, str] | None = None,
        **common: Any,
    ) -> BatchHandle:
        """Submit a batch, as `batch`, without waiting for it."""
        requested = batches.order(
            prompts,
            model,
            requests=requests,
            idempotency_key=idempotency_key,
            webhook=webhook,
            metadata=metadata,
            common=common,
        )
        return self.batch_handle(self._driver.run(batches.submit(self._service, requested)).id)

    def batch_handle(self, id: str) -> BatchHandle:  # noqa: A002 - the service's name for it
        """The handle of the batch with this id."""
        return BatchHandle(id, self._service, self._driver)

    def estimate(
        self,
        prompts: str | Sequence[str] | None = None,
        *,
        model: str | None = None,
        requests: Sequence[Mapping[str, Any]] | None = None,
        **parameters: Any,
    ) -> Plan:
        """The forecast of `generate`, for one prompt, or else of `batch`: seconds and USD. No money is spent."""
        return self._driver.run(looking.estimate(self._service, prompts, model, requests, parameters))

    def save(
        self,
        made: Generation,
        directory: str | Path = ".",
        name: str = NAME,
        *,
        overwrite: bool = False,
    ) -> list[Path]:
        """Write the outputs of a generation into a directory; see `Generation.save`."""
        return self._saver(made, directory, name, overwrite=overwrite)

    def upload(self, file: Any) -> Upload:
        """Send a file to the service once, for any number of generations within a day: a path, bytes, a file object or
        an image of PIL. Its `url` does the same for other processes with the same key. Calls to text models take the
        file itself.

        Raises ApiError, and TypeError for what is no file."""
        return self._driver.run(references.upload(self._service, file))

    def models(self, search: str | None = None) -> list[Model]:
        """The declared models; with `search`, those that fit, also others at Replicate."""
        return self._driver.run(looking.models(self._service, search))

    def model(self, name: str) -> Model:
        """One model, with the schema of its parameters. Raises NotFound."""
        return self._driver.run(looking.model(self._service, name))

    def usage(
        self,
        group_by: str | Sequence[str] | None = None,
        since: str | date | None = None,
        until: str | date | None = None,
    ) -> Usage:
        """The number and the cost of ended generations, by `model`, `day`, `key`, `tag:…`, `metadata:…`."""
        return self._driver.run(looking.usage(self._service, group_by, since, until))

    def status(self) -> Status:
        """The state of the service: its slots, its window, what waits."""
        return self._driver.run(looking.status(self._service))

    def configure(self, **limits: int | None) -> Status:
        """Change limits, such as `concurrent_limit` and `requests_per_minute`, for an administrator. None returns to
        that of the service's environment."""
        return self._driver.run(looking.configure(self._service, limits))

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

    def list(
        self,
        *,
        state: str | None = None,
        model: str | None = None,
        batch: str | None = None,
        kind: str | None = None,
        prompt: str | None = None,
        since: str | date | None = None,
        metadata: Mapping[str, str] | None = None,
        key: str | None = None,
        limit: int | None = None,
    ) -> Iterator[Generation]:
        """The caller's generations, the latest first; pages are fetched when they are needed."""
        found = looking.generations(
            self._service, limit=limit, since=since, metadata=metadata,
            state=state, model=model, batch=batch, kind=kind, prompt=prompt, key=key,
        )  # fmt: skip
        for each in self._driver.iterate(found):
            yield savable(each, self._saver)
