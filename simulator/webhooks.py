"""Webhooks: told to whoever asked, signed, and told again when they did not listen.

The body is the prediction as it was when the event happened, not as it is when the retry leaves.
The signature is HMAC-SHA256 over `id.timestamp.body`, keyed with the bytes after `whsec_`; every
attempt keeps its `webhook-id`, so that a receiver can tell a repetition, and gets a timestamp of
its own.
"""

import asyncio
import base64
import hashlib
import hmac
import ipaddress
import json
import secrets
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from simulator.counts import Counters

EVENTS = frozenset({"start", "output", "logs", "completed"})
DEFAULT_EVENTS = frozenset({"output", "completed"})

_ATTEMPTS = 5
_AT_ONCE = 50
_TIMEOUT = aiohttp.ClientTimeout(total=10)


class Webhooks:
    """Sends webhooks in the background, a few dozen at a time."""

    def __init__(self, *, retry_seconds: float, counters: Counters) -> None:
        self._retry_seconds = retry_seconds
        self._counters = counters
        self._key = secrets.token_bytes(32)
        self._tasks: set[asyncio.Task[None]] = set()
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._session: aiohttp.ClientSession | None = None

    def secret(self, token: str) -> str:
        """The signing secret of an account, `whsec_` and base64."""
        # Derived, not stored: any number of accounts may ask, and each always hears the same.
        own = hmac.digest(self._key, token.encode(), hashlib.sha256)
        return "whsec_" + base64.b64encode(own[:24]).decode()

    def send(self, url: str, token: str, body: Mapping[str, Any]) -> None:
        """Send `body` to `url`, signed for the account of `token`, without waiting for it."""
        content = json.dumps(body).encode()
        task = asyncio.get_running_loop().create_task(self._deliver(url, token, content))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def abandon(self) -> None:
        """Give up on everything not delivered yet."""
        for task in self._tasks:
            task.cancel()

    async def close(self) -> None:
        """Give up, and leave no connection open."""
        tasks = list(self._tasks)
        self.abandon()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    async def _deliver(self, url: str, token: str, content: bytes) -> None:
        message = f"msg_{secrets.token_hex(12)}"
        for attempt in range(_ATTEMPTS):
            headers = signed(content, message=message, secret=self.secret(token))
            async with self._places:
                delivered = await self._post(url, content, headers)
            self._counters.webhook(delivered=delivered)
            if delivered:
                return
            await asyncio.sleep(self._retry_seconds * 2**attempt)

    async def _post(self, url: str, content: bytes, headers: Mapping[str, str]) -> bool:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=_TIMEOUT)
        post = self._session.post(url, data=content, headers=headers, allow_redirects=False)
        try:
            async with post as answer:
                return 200 <= answer.status < 300
        except (aiohttp.ClientError, OSError, TimeoutError):
            return False


def signed(content: bytes, *, message: str, secret: str) -> dict[str, str]:
    """The headers that prove `content` came from the holder of `secret`, as of now."""
    stamp = str(int(time.time()))
    key = base64.b64decode(secret.removeprefix("whsec_"))
    text = f"{message}.{stamp}.".encode() + content
    signature = base64.b64encode(hmac.digest(key, text, hashlib.sha256)).decode()
    return {
        "Content-Type": "application/json",
        "webhook-id": message,
        "webhook-timestamp": stamp,
        "webhook-signature": f"v1,{signature}",
    }


def acceptable(url: object) -> bool:
    """Whether Replicate would call `url`: HTTPS, or plain HTTP to this very machine."""
    if not isinstance(url, str):
        return False
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return False
    return bool(host) and (parts.scheme == "https" or (parts.scheme == "http" and _is_here(host)))


def _is_here(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
