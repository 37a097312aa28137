"""Handles of work at the service, which a script keeps while the work goes on, and can make again from an id."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

from replicate_concurrent.operations import batches, following, generating, saving, trainings, weights
from replicate_concurrent.operations.drivers import AsyncDriver, Driver
from replicate_concurrent.operations.sending import Service
from replicate_concurrent.results import Batch, Event, Generation, savable, savable_batch
from replicate_concurrent.training_results import Training

NAME = "{id}.{ext}"
"""The template of a name, unless another is passed."""


class Saver:
    """Saves the files of results of a client that blocks. Each result has one."""

    def __init__(self, service: Service, driver: Driver) -> None:
        self._service = service
        self._driver = driver

    def __call__(
        self, made: Generation, directory: str | Path = ".", name: str = NAME, *, overwrite: bool = False
    ) -> list[Path]:
        return self._driver.run(saving.save(self._service, made, directory, name, overwrite=overwrite))


class Handle:
    """A generation at the service."""

    def __init__(self, id: str, service: Service, driver: Driver) -> None:  # noqa: A002 - the service's name for it
        self.id = id
        self._service = service
        self._driver = driver
        self._saver = Saver(service, driver)

    def __repr__(self) -> str:
        return f"Handle({self.id!r})"

    def wait(self, timeout: float | None = None) -> Generation:
        """The generation with its outputs. Raises ApiError if it failed, and TimedOut after `timeout` seconds."""
        return savable(
            self._driver.run(generating.wait(self._service, self.id, timeout=timeout)), self._saver
        )

    def status(self) -> Generation:
        """The generation as it is now. A failed one has its `error`."""
        return savable(self._driver.run(generating.look(self._service, self.id)), self._saver)

    def cancel(self) -> Generation:
        """Cancel it. Returns it as it then is: one that had ended stays as it was."""
        return savable(self._driver.run(generating.cancel(self._service, self.id)), self._saver)

    def events(self) -> Iterator[Event]:
        """Its events, each once, from its start to its end, also over lost connections."""
        return self._driver.iterate(following.events(self._service, self.id))

    def save(self, directory: str | Path = ".", name: str = NAME, *, overwrite: bool = False) -> list[Path]:
        """Wait for it and write its outputs into a directory; see `Generation.save`."""
        return self.wait().save(directory, name, overwrite=overwrite)


class AsyncHandle:
    """A generation at the service, for AsyncClient; see `Handle`."""

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

    def events(self) -> AsyncIterator[Event]:
        """Its events, each once, from its start to its end, also over lost connections."""
        return self._driver.iterate(following.events(self._service, self.id))

    async def save(
        self, directory: str | Path = ".", name: str = NAME, *, overwrite: bool = False
    ) -> list[Path]:
        """Wait for it and write its outputs into a directory; see `Generation.save`."""
        made = await self.wait()
        return await self._driver.run(saving.save(self._service, made, directory, name, overwrite=overwrite))


class BatchHandle:
    """A batch at the service."""

    def __init__(self, id: str, service: Service, driver: Driver) -> None:  # noqa: A002 - the service's name for it
        self.id = id
        self._service = service
        self._driver = driver
        self._saver = Saver(service, driver)

    def __repr__(self) -> str:
        return f"BatchHandle({self.id!r})"

    def wait(self, timeout: float | None = None) -> Batch:
        """The batch with all results, in input order. Raises TimedOut after `timeout` seconds."""
        return savable_batch(
            self._driver.run(batches.wait(self._service, self.id, timeout=timeout)), self._saver
        )

    def status(self) -> Batch:
        """The batch as it is now, with the results so far."""
        return savable_batch(self._driver.run(batches.look(self._service, self.id)), self._saver)

    def cancel(self) -> Batch:
        """Cancel what has not ended. Returns the batch as it then is."""
        return savable_batch(self._driver.run(batches.cancel(self._service, self.id)), self._saver)

    def results(self) -> Iterator[Generation]:
        """The results as they end. Failed ones have an `error`."""
        for each in self._driver.iterate(batches.results(self._service, self.id)):
            yield savable(each, self._saver)


class AsyncBatchHandle:
    """A batch at the service, for AsyncClient; see `BatchHandle`."""

    def __init__(self, id: str, service: Service, driver: AsyncDriver) -> None:  # noqa: A002 - the service's name for it
        self.id = id
        self._service = service
        self._driver = driver

    def __repr__(self) -> str:
        return f"AsyncBatchHandle({self.id!r})"

    async def wait(self, timeout: float | None = None) -> Batch:
        """The batch with all results, in input order. Raises TimedOut after `timeout` seconds."""
        return await self._driver.run(batches.wait(self._service, self.id, timeout=timeout))

    async def status(self) -> Batch:
        """The batch as it is now, with the results so far."""
        return await self._driver.run(batches.look(self._service, self.id))

    async def cancel(self) -> Batch:
        """Cancel what has not ended. Returns the batch as it then is."""
        return await self._driver.run(batches.cancel(self._service, self.id))

    def results(self) -> AsyncIterator[Generation]:
        """The results as they end. Failed ones have an `error`."""
        return self._driver.iterate(batches.results(self._service, self.id))


class TrainingHandle:
    """A training at the service."""

    def __init__(self, id: str, service: Service, driver: Driver) -> None:  # noqa: A002 - the service's name for it
        self.id = id
        self._service = service
        self._driver = driver

    def __repr__(self) -> str:
        return f"TrainingHandle({self.id!r})"

    def wait(
        self, timeout: float | None = None, *, on_progress: Callable[[Training], object] | None = None
    ) -> Training:
        """The training with its model. `on_progress` is called with it at each look, every few seconds. Raises ApiError
        if it failed, and TimedOut after `timeout` seconds."""
        for made in self._driver.iterate(trainings.looks(self._service, self.id, timeout=timeout)):
            if on_progress is not None:
                on_progress(made)
        trainings.raise_if_failed(made)
        return made  # type: ignore[no-any-return] # a driver emits values of any type

    def status(self) -> Training:
        """The training as it is now. A failed one has its `error`."""
        return self._driver.run(trainings.look(self._service, self.id))

    def cancel(self) -> Training:
        """Cancel it. Returns it as it then is: one that had ended stays as it was."""
        return self._driver.run(trainings.cancel(self._service, self.id))

    def events(self) -> Iterator[Event]:
        """Its events from its start to its end, also over lost connections: also `logs`, with pieces as `text`."""
        return self._driver.iterate(following.events(self._service, self.id, kind=trainings.KIND))

    def save_weights(self, directory: str | Path = ".", name: str = NAME, *, overwrite: bool = False) -> Path:
        """Wait for it and write its weights into a directory, which is made. Returns their path. `name` may have
        `{id}`, `{ext}` and `{model}`, the name of the destination.

        Raises FileExistsError unless `overwrite`, OutputLost if the service does not have them, and the error of a
        training that failed.
        """
        self.wait()
        return self._driver.run(weights.save(self._service, self.id, directory, name, overwrite=overwrite))

    def delete_weights(self) -> None:
        """Delete the weights that the service keeps. The model at Replicate stays. Raises NotFound."""
        self._driver.run(trainings.delete_weights(self._service, self.id))


class AsyncTrainingHandle:
    """A training at the service, for AsyncClient; see `TrainingHandle`."""

    def __init__(self, id: str, service: Service, driver: AsyncDriver) -> None:  # noqa: A002 - the service's name for it
        self.id = id
        self._service = service
        self._driver = driver

    def __repr__(self) -> str:
        return f"AsyncTrainingHandle({self.id!r})"

    async def wait(
        self, timeout: float | None = None, *, on_progress: Callable[[Training], object] | None = None
    ) -> Training:
        """The training with its model. `on_progress` is called with it at each look, every few seconds. Raises ApiError
        if it failed, and TimedOut after `timeout` seconds."""
        async for made in self._driver.iterate(trainings.looks(self._service, self.id, timeout=timeout)):
            if on_progress is not None:
                on_progress(made)
        trainings.raise_if_failed(made)
        return made  # type: ignore[no-any-return] # a driver emits values of any type

    async def status(self) -> Training:
        """The training as it is now. A failed one has its `error`."""
        return await self._driver.run(trainings.look(self._service, self.id))

    async def cancel(self) -> Training:
        """Cancel it. Returns it as it then is: one that had ended stays as it was."""
        return await self._driver.run(trainings.cancel(self._service, self.id))

    def events(self) -> AsyncIterator[Event]:
        """Its events from its start to its end, also over lost connections: also `logs`, with pieces as `text`."""
        return self._driver.iterate(following.events(self._service, self.id, kind=trainings.KIND))

    async def save_weights(
        self, directory: str | Path = ".", name: str = NAME, *, overwrite: bool = False
    ) -> Path:
        """Wait for it and write its weights into a directory, which is made. Returns their path. `name` may have
        `{id}`, `{ext}` and `{model}`, the name of the destination.

        Raises FileExistsError unless `overwrite`, OutputLost if the service does not have them, and the error of a
        training that failed.
        """
        await self.wait()
        return await self._driver.run(
            weights.save(self._service, self.id, directory, name, overwrite=overwrite)
        )

    async def delete_weights(self) -> None:
        """Delete the weights that the service keeps. The model at Replicate stays. Raises NotFound."""
        await self._driver.run(trainings.delete_weights(self._service, self.id))
