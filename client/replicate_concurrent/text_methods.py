"""The methods of both clients that call text models; each runs one operation."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

from replicate_concurrent.operations import texts
from replicate_concurrent.operations.drivers import AsyncDriver, Driver
from replicate_concurrent.operations.sending import Service
from replicate_concurrent.text_results import ChatDelta, ChatResult, ExtractResult, TextBatch, chat_result


class TextMethods:
    """Those of `Client`."""

    _service: Service
    _driver: Driver

    def chat(
        self,
        prompt: str | None = None,
        *,
        model: str | None = None,
        system_prompt: str | None = None,
        messages: Sequence[Mapping[str, Any]] | None = None,
        images: Any = None,
        idempotency_key: str | None = None,
        **parameters: Any,
    ) -> ChatResult:
        """Answer a prompt, after `messages` if there are any (`role`, `content`, `images`). `parameters` are those of
        `POST /chat`, such as `temperature`, `max_output_tokens`, `thinking_level` and `on_lost`. Images may be paths
        (also as texts), bytes, file objects, images of PIL, or addresses.

        Raises ApiError if the request was refused or the call failed, and TimedOut after the client's timeout.
        """
        named = {"model": model, "system_prompt": system_prompt, "messages": messages, "images": images}
        requested = texts.chat_order(prompt, {**parameters, **named}, idempotency_key=idempotency_key)
        return self._driver.run(texts.answer(self._service, requested, chat_result))

    def chat_stream(
        self,
        prompt: str | None = None,
        *,
        model: str | None = None,
        system_prompt: str | None = None,
        messages: Sequence[Mapping[str, Any]] | None = None,
        images: Any = None,
        idempotency_key: str | None = None,
        **parameters: Any,
    ) -> Iterator[ChatDelta]:
        """The answer to a prompt, as `chat`, in pieces as they come: each has its `delta`, and the last the `result`. A
        connection that breaks is made again, and the text goes on."""
        named = {"model": model, "system_prompt": system_prompt, "messages": messages, "images": images}
        requested = texts.chat_order(prompt, {**parameters, **named}, idempotency_key=idempotency_key)
        return self._driver.iterate(texts.stream(self._service, requested))

    def extract(
        self,
        content: str,
        *,
        schema: Any,
        model: str | None = None,
        system_prompt: str | None = None,
        idempotency_key: str | None = None,
        **parameters: Any,
    ) -> ExtractResult:
        """What a schema describes, from a text: a JSON Schema as a dict, a dataclass, or a class of pydantic, of which
        `value` of the result is an instance. `parameters` are those of `POST /structured-output`, such as `images` and
        `repair`.

        Raises ApiError if the request was refused or the call failed, and TimedOut after the client's timeout.
        """
        named = {"model": model, "system_prompt": system_prompt}
        requested = texts.extract_order(
            content, schema, {**parameters, **named}, idempotency_key=idempotency_key
        )
        return self._driver.run(texts.extracted(self._service, requested, schema))

    def chat_batch(
        self,
        prompts: Sequence[str] | None = None,
        *,
        requests: Sequence[Mapping[str, Any]] | None = None,
        model: str | None = None,
        system_prompt: str | None = None,
        idempotency_key: str | None = None,
        **common: Any,
    ) -> TextBatch[ChatResult]:
        """Answer prompts, or `requests` with the fields of `chat`. `common` are parameters of each, and of the batch:
        `webhook`, `metadata`, `max_concurrent`, `max_cost_usd`, `external_semaphore_id`. Returns all results in input
        order, however long that takes. A failed item has an `error`; it does not raise.

        Raises ApiError if the batch was refused.
        """
        named = {"model": model, "system_prompt": system_prompt}
        requested = texts.chat_batch_order(
            prompts, requests, {**common, **named}, idempotency_key=idempotency_key
        )
        return self._driver.run(texts.answers(self._service, requested, chat_result))

    def extract_batch(
        self,
        contents: Sequence[str],
        *,
        schema: Any,
        model: str | None = None,
        system_prompt: str | None = None,
        idempotency_key: str | None = None,
        **common: Any,
    ) -> TextBatch[ExtractResult]:
        """Extract from texts, as `extract`, by one schema or by a list of one for each text. Returns all results in
        input order, as `chat_batch`."""
        named = {"model": model, "system_prompt": system_prompt}
        requested = texts.extract_batch_order(
            contents, schema, {**common, **named}, idempotency_key=idempotency_key
        )
        return self._driver.run(texts.all_extracted(self._service, requested, schema))


class AsyncTextMethods:
    """Those of `AsyncClient`."""

    _service: Service
    _driver: AsyncDriver

    async def chat(
        self,
        prompt: str | None = None,
        *,
        model: str | None = None,
        system_prompt: str | None = None,
        messages: Sequence[Mapping[str, Any]] | None = None,
        images: Any = None,
        idempotency_key: str | None = None,
        **parameters: Any,
    ) -> ChatResult:
        """Answer a prompt, after `messages` if there are any (`role`, `content`, `images`). `parameters` are those of
        `POST /chat`, such as `temperature`, `max_output_tokens`, `thinking_level` and `on_lost`. Images may be paths
        (also as texts), bytes, file objects, images of PIL, or addresses.

        Raises ApiError if the request was refused or the call failed, and TimedOut after the client's timeout.
        """
        named = {"model": model, "system_prompt": system_prompt, "messages": messages, "images": images}
        requested = texts.chat_order(prompt, {**parameters, **named}, idempotency_key=idempotency_key)
        return await self._driver.run(texts.answer(self._service, requested, chat_result))

    def chat_stream(
        self,
        prompt: str | None = None,
        *,
        model: str | None = None,
        system_prompt: str | None = None,
        messages: Sequence[Mapping[str, Any]] | None = None,
        images: Any = None,
        idempotency_key: str | None = None,
        **parameters: Any,
    ) -> AsyncIterator[ChatDelta]:
        """The answer to a prompt, as `chat`, in pieces as they come: each has its `delta`, and the last the `result`. A
        connection that breaks is made again, and the text goes on."""
        named = {"model": model, "system_prompt": system_prompt, "messages": messages, "images": images}
        requested = texts.chat_order(prompt, {**parameters, **named}, idempotency_key=idempotency_key)
        return self._driver.iterate(texts.stream(self._service, requested))

    async def extract(
        self,
        content: str,
        *,
        schema: Any,
        model: str | None = None,
        system_prompt: str | None = None,
        idempotency_key: str | None = None,
        **parameters: Any,
    ) -> ExtractResult:
        """What a schema describes, from a text: a JSON Schema as a dict, a dataclass, or a class of pydantic, of which
        `value` of the result is an instance. `parameters` are those of `POST /structured-output`, such as `images` and
        `repair`.

        Raises ApiError if the request was refused or the call failed, and TimedOut after the client's timeout.
        """
        named = {"model": model, "system_prompt": system_prompt}
        requested = texts.extract_order(
            content, schema, {**parameters, **named}, idempotency_key=idempotency_key
        )
        return await self._driver.run(texts.extracted(self._service, requested, schema))

    async def chat_batch(
        self,
        prompts: Sequence[str] | None = None,
        *,
        requests: Sequence[Mapping[str, Any]] | None = None,
        model: str | None = None,
        system_prompt: str | None = None,
        idempotency_key: str | None = None,
        **common: Any,
    ) -> TextBatch[ChatResult]:
        """Answer prompts, or `requests` with the fields of `chat`. `common` are parameters of each, and of the batch:
        `webhook`, `metadata`, `max_concurrent`, `max_cost_usd`, `external_semaphore_id`. Returns all results in input
        order, however long that takes. A failed item has an `error`; it does not raise.

        Raises ApiError if the batch was refused.
        """
        named = {"model": model, "system_prompt": system_prompt}
        requested = texts.chat_batch_order(
            prompts, requests, {**common, **named}, idempotency_key=idempotency_key
        )
        return await self._driver.run(texts.answers(self._service, requested, chat_result))

    async def extract_batch(
        self,
        contents: Sequence[str],
        *,
        schema: Any,
        model: str | None = None,
        system_prompt: str | None = None,
        idempotency_key: str | None = None,
        **common: Any,
    ) -> TextBatch[ExtractResult]:
        """Extract from texts, as `extract`, by one schema or by a list of one for each text. Returns all results in
        input order, as `chat_batch`."""
        named = {"model": model, "system_prompt": system_prompt}
        requested = texts.extract_batch_order(
            contents, schema, {**common, **named}, idempotency_key=idempotency_key
        )
        return await self._driver.run(texts.all_extracted(self._service, requested, schema))
