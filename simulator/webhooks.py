"""Sends webhooks, signed, and retries refused ones.

The body is the prediction at the time of the event, also in a retry. The signature is HMAC-SHA256 over
`id.timestamp.body`, with the key after `whsec_`. All attempts have the same `webhook-id`, by which a receiver detects
repetitions, and a timestamp each.
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
    """Sends webhooks in the background, at most 50 at a time."""

    def __init__(self, *, retry_seconds: float, counters: Counters) -> None:
        self._retry_seconds = retry_seconds
        self._counters = counters
        self._key = secrets.token_bytes(32)
        self._tasks: set[asyncio.Task[None]] = set()
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._session: aiohttp.ClientSession | None = None

    def secret(self, token: str) -> str:
        """The signing secret of an account, `whsec_` and base64."""
        # Derived, not stored: any number of accounts may request it, and each always gets the same.
        digest = hmac.digest(self._key, token.encode(), hashlib.sha256)
        return "whsec_" + base64.b64encode(digest[:24]).decode()

    def send(self, url: str, token: str, body: Mapping[str, Any]) -> None:
        """Send `body` to `url` in the background, signed for the account of `token`."""
        content = json.dumps(body).encode()
        task = asyncio.get_running_loop().create_task(self._deliver(url, token, content))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def cancel_all(self) -> None:
        """Cancel all deliveries."""
        for task in self._tasks:
            task.cancel()

    async def close(self) -> None:
        """Cancel all deliveries and close all connections."""
        tasks = list(self._tasks)
        self.cancel_all()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    async def _deliver(self, url: str, token: str, content: bytes) -> None:
        message = f"msg_{secrets.token_hex(12)}"
        for attempt in range(_ATTEMPTS):
            headers = signed(content, message=message, secret=self.secret(token))
            async with self._places:
                delivered = await self._post(url, content, headers)
            self._counters.count_webhook(delivered=delivered)
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
    """The headers of a webhook with `content`, signed with `secret` at this moment."""
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


def is_acceptable(url: object) -> bool:
    """Whether `url` can be a webhook: HTTPS, or plain HTTP to this machine."""
    if not isinstance(url, str):
        return False
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return False
    return bool(host) and (parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(host)))


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
