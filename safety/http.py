"""The requests to services that judge prompts: the operator's own (SAFETY_URL), and the parts common to all.

A request is a JSON object, `{"prompt", "negative_prompt", "model", "key", "images"?}`, and so is the answer,
`{"allow", "categories", "reason"}`. Any other answer is a failure: another status, also a redirect, another
form, or more than `_MOST_BYTES`.
"""

import asyncio
import json
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import aiohttp

from network import public_http
from network.proxies import Proxy
from safety.judging import CheckFailed, Content, Service, Verdict

_MOST_BYTES: Final = 65_536
"""The most bytes of an answer."""

_MOST_CATEGORIES: Final = 20
_LONGEST_CATEGORY: Final = 64
_LONGEST_REASON: Final = 500

_NO_HEADERS: Final[Mapping[str, str]] = {}


class Answer(NamedTuple):
    """The status of an answer, its JSON (None if it has none), and the seconds of its `Retry-After`."""

    status: int
    body: Any
    retry_after: float | None


class JsonClient:
    """Posts JSON to one service, through `proxy` if that is set. Make and close it on the loop that uses it."""

    def __init__(self, proxy: Proxy | None = None) -> None:
        self._proxy = {} if proxy is None else proxy.arguments
        self._session = public_http.client_session(None, timeout=aiohttp.ClientTimeout(total=None))

    async def post(self, url: str, body: bytes, headers: Mapping[str, str] = _NO_HEADERS) -> Answer:
        """Post a body. Raises CheckFailed."""
        try:
            try:
                return await self._posted(url, body, headers)
            except aiohttp.ServerDisconnectedError:  # it had closed a kept connection
                return await self._posted(url, body, headers)
        except aiohttp.ClientError as error:
            raise CheckFailed(public_http.describe_error(error)) from None

    async def _posted(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        headers = {"Content-Type": "application/json", **headers}
        sent = self._session.post(url, data=body, headers=headers, allow_redirects=False, **self._proxy)
        async with sent as response:
            content = bytearray()
            async for chunk in response.content.iter_any():
                content += chunk
                if len(content) > _MOST_BYTES:
                    raise CheckFailed(f"its answer has more than {_MOST_BYTES} bytes")
        after = response.headers.get("Retry-After", "")
        seconds = float(after) if after.isdecimal() else None
        try:
            return Answer(response.status, json.loads(content), seconds)
        except (ValueError, RecursionError):
            return Answer(response.status, None, seconds)

    async def aclose(self) -> None:
        await self._session.close()


class OwnService(Service):
    """The service at SAFETY_URL."""

    def __init__(self, url: str, client: JsonClient) -> None:
        self._url = url
        self._client = client

    async def judge(self, content: Content) -> Verdict:
        body = await asyncio.to_thread(content.as_json) if content.is_large else content.as_json()
        answer = await self._client.post(self._url, body)
        if answer.status != 200:
            raise CheckFailed(f"it answered {answer.status}")
        return _verdict(answer.body)

    async def aclose(self) -> None:
        await self._client.aclose()


def _verdict(answer: Any) -> Verdict:
    """Raises CheckFailed for another form. A refusal is one whatever stands beside it."""
    if not isinstance(answer, dict) or not isinstance(answer.get("allow"), bool):
        raise CheckFailed("its answer is no JSON object with `allow`")
    allows, categories, reason = answer["allow"], answer.get("categories"), answer.get("reason")
    if not isinstance(categories, list | None) or not all(isinstance(each, str) for each in categories or ()):
        if allows:
            raise CheckFailed("its `categories` are no list of texts")
        categories = None
    if not isinstance(reason, str | None):
        if allows:
            raise CheckFailed("its `reason` is no text")
        reason = None
    names = [_plain(each)[:_LONGEST_CATEGORY] for each in (categories or ())[:_MOST_CATEGORIES]]
    return Verdict(allows, tuple(filter(None, names)), _plain(reason or "")[:_LONGEST_REASON] or None)


def _plain(text: str) -> str:
    """The text without characters that JSON and databases cannot hold."""
    return text.encode(errors="replace").decode().replace("\0", "")
