"""The methods of both clients for trainings; each runs one operation."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import date
from typing import Any

from replicate_concurrent.handles import AsyncTrainingHandle, TrainingHandle
from replicate_concurrent.operations import trainings
from replicate_concurrent.operations.drivers import AsyncDriver, Driver
from replicate_concurrent.operations.sending import Service
from replicate_concurrent.training_results import Training, TrainingPlan


class TrainingMethods:
    """Those of `Client`."""

    _service: Service
    _driver: Driver

    def train(
        self,
        images: Any,
        *,
        trainer: str,
        destination: str,
        trigger_word: str | None = None,
        input: Mapping[str, Any] | None = None,  # noqa: A002 - the service's name for it
        create_destination: bool | Mapping[str, str] | None = None,
        timeout: float | None = None,
        webhook: str | None = None,
        metadata: Mapping[str, str] | None = None,
        max_cost_usd: float | None = None,
        idempotency_key: str | None = None,
    ) -> TrainingHandle:
        """Begin a training, without waiting for it. `images` are a folder, of which images and the captions beside them
        (`dog.txt` of `dog.jpg`) are sent; a list of such paths; a zip; or the address of one. `destination` is the
        model at Replicate that gets the new version, `owner/name`. With `create_destination` it is made if need be, by
        True as a private one, or by `{"visibility": "public"}`. `input` are the trainer's own inputs. `timeout` is for
        how many seconds the training may run.

        Raises ApiError if it was refused, OSError for a file that cannot be read, and ValueError if there is none.
        """
        requested = trainings.order(
            images,
            trainer,
            destination,
            trigger_word=trigger_word,
            input=input,
            create_destination=create_destination,
            timeout=timeout,
            webhook=webhook,
            metadata=metadata,
            max_cost_usd=max_cost_usd,
            idempotency_key=idempotency_key,
        )
        return self.training_handle(self._driver.run(trainings.begin(self._service, requested)).id)

    def estimate_training(
        self,
        images: Any,
        *,
        trainer: str,
        destination: str,
        trigger_word: str | None = None,
        input: Mapping[str, Any] | None = None,  # noqa: A002 - the service's name for it
        create_destination: bool | Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> TrainingPlan:
        """The forecast of `train`: images, captions, seconds and USD. Everything is checked, and no money is spent."""
        requested = trainings.order(
            images,
            trainer,
            destination,
            trigger_word=trigger_word,
            input=input,
            create_destination=create_destination,
            timeout=timeout,
        )
        return self._driver.run(trainings.estimate(self._service, requested))

    def training(self, id: str) -> Training:  # noqa: A002 - the service's name for it
        """The training with this id, as it is now. Raises NotFound."""
        return self._driver.run(trainings.look(self._service, id))

    def training_handle(self, id: str) -> TrainingHandle:  # noqa: A002 - the service's name for it
        """The handle of the training with this id."""
        return TrainingHandle(id, self._service, self._driver)

    def trainings(
        self,
        *,
        state: str | None = None,
        model: str | None = None,
        since: str | date | None = None,
        metadata: Mapping[str, str] | None = None,
        key: str | None = None,
        limit: int | None = None,
    ) -> Iterator[Training]:
        """The caller's trainings, the latest first; pages are fetched when they are needed. `model` is the trainer."""
        found = trainings.every(
            self._service, limit=limit, since=since, metadata=metadata, state=state, model=model, key=key
        )
        return self._driver.iterate(found)


class AsyncTrainingMethods:
    """Those of `AsyncClient`."""

    _service: Service
    _driver: AsyncDriver

    async def train(
        self,
        images: Any,
        *,
        trainer: str,
        destination: str,
        trigger_word: str | None = None,
        input: Mapping[str, Any] | None = None,  # noqa: A002 - the service's name for it
        create_destination: bool | Mapping[str, str] | None = None,
        timeout: float | None = None,
        webhook: str | None = None,
        metadata: Mapping[str, str] | None = None,
        max_cost_usd: float | None = None,
        idempotency_key: str | None = None,
    ) -> AsyncTrainingHandle:
        """Begin a training, without waiting for it. `images` are a folder, of which images and the captions beside them
        (`dog.txt` of `dog.jpg`) are sent; a list of such paths; a zip; or the address of one. `destination` is the
        model at Replicate that gets the new version, `owner/name`. With `create_destination` it is made if need be, by
        True as a private one, or by `{"visibility": "public"}`. `input` are the trainer's own inputs. `timeout` is for
        how many seconds the training may run.

        Raises ApiError if it was refused, OSError for a file that cannot be read, and ValueError if there is none.
        """
        requested = trainings.order(
            images,
            trainer,
            destination,
            trigger_word=trigger_word,
            input=input,
            create_destination=create_destination,
            timeout=timeout,
            webhook=webhook,
            metadata=metadata,
            max_cost_usd=max_cost_usd,
            idempotency_key=idempotency_key,
        )
        return self.training_handle((await self._driver.run(trainings.begin(self._service, requested))).id)

    async def estimate_training(
        self,
        images: Any,
        *,
        trainer: str,
        destination: str,
        trigger_word: str | None = None,
        input: Mapping[str, Any] | None = None,  # noqa: A002 - the service's name for it
        create_destination: bool | Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> TrainingPlan:
        """The forecast of `train`: images, captions, seconds and USD. Everything is checked, and no money is spent."""
        requested = trainings.order(
            images,
            trainer,
            destination,
            trigger_word=trigger_word,
            input=input,
            create_destination=create_destination,
            timeout=timeout,
        )
        return await self._driver.run(trainings.estimate(self._service, requested))

    async def training(self, id: str) -> Training:  # noqa: A002 - the service's name for it
        """The training with this id, as it is now. Raises NotFound."""
        return await self._driver.run(trainings.look(self._service, id))

    def training_handle(self, id: str) -> AsyncTrainingHandle:  # noqa: A002 - the service's name for it
        """The handle of the training with this id."""
        return AsyncTrainingHandle(id, self._service, self._driver)

    def trainings(
        self,
        *,
        state: str | None = None,
        model: str | None = None,
        since: str | date | None = None,
        metadata: Mapping[str, str] | None = None,
        key: str | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[Training]:
        """The caller's trainings, the latest first; pages are fetched when they are needed. `model` is the trainer."""
        found = trainings.every(
            self._service, limit=limit, since=since, metadata=metadata, state=state, model=model, key=key
        )
        return self._driver.iterate(found)
