"""Uploaded files: their facts are kept for a day, their bytes not at all.

A caller needs a URL to hand to a model, and no model here ever reads it. Sizes and checksums are
worked out while the upload streams through, so a hundred megabytes cost no memory.
"""

import hashlib
import json
import mimetypes
import secrets
from collections import OrderedDict
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from aiohttp import BodyPartReader, web

from simulator import refusals
from simulator.predictions import timestamp

LARGEST_BYTES = 100 * 2**20
LIFE = timedelta(hours=24)
_REMEMBERED = 10_000
_LARGEST_METADATA = 64 * 2**10


class Uploads:
    """The latest uploads of everybody, by id."""

    def __init__(self) -> None:
        self._by_id: OrderedDict[str, tuple[str, dict[str, Any]]] = OrderedDict()

    async def receive(self, request: web.Request, *, token: str, base_url: str) -> dict[str, Any]:
        """Take in a multipart upload and answer its metadata.

        Raises:
            Refusal: If it is not multipart, lacks the field `content`, or is too large.
        """
        facts, metadata = await _read(request)
        now = datetime.now(UTC)
        name = secrets.token_hex(18)
        facts |= {
            "id": name,
            "metadata": metadata,
            "created_at": timestamp(now),
            "expires_at": timestamp(now + LIFE),
            "urls": {"get": f"{base_url}/v1/files/{name}"},
        }
        self._by_id[name] = (token, facts)
        if len(self._by_id) > _REMEMBERED:
            self._by_id.popitem(last=False)
        return facts

    def find(self, name: str, *, token: str) -> Mapping[str, Any] | None:
        """The metadata of one upload, if it is that account's and not expired."""
        owner, facts = self._by_id.get(name, ("", {}))
        expired = bool(facts) and datetime.fromisoformat(facts["expires_at"]) <= datetime.now(UTC)
        return facts if owner == token and not expired else None

    def clear(self) -> None:
        """Forget them all."""
        self._by_id.clear()


async def _read(request: web.Request) -> tuple[dict[str, Any], Any]:
    facts: dict[str, Any] | None = None
    metadata: Any = {}
    if not request.content_type.startswith("multipart/"):
        raise refusals.malformed("Multipart form data is expected")
    try:
        async for part in await request.multipart():
            if isinstance(part, BodyPartReader) and part.name == "content":
                facts = await _facts(part)
            elif isinstance(part, BodyPartReader) and part.name == "metadata":
                metadata = json.loads((await part.read_chunk(_LARGEST_METADATA)).decode())
    except ValueError as reason:
        raise refusals.malformed(f"Multipart form parse error: {reason}") from reason
    if facts is None:
        raise refusals.malformed("Missing content")
    return facts, metadata


async def _facts(part: BodyPartReader) -> dict[str, Any]:
    size, sha256, md5 = 0, hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    while chunk := await part.read_chunk(2**16):
        size += len(chunk)
        if size > LARGEST_BYTES:
            raise refusals.malformed("The file is larger than 100 MB", status=413)
        sha256.update(chunk)
        md5.update(chunk)
    name = part.filename or "content"
    guessed = mimetypes.guess_type(name)[0] or "application/octet-stream"
    return {
        "name": name,
        "content_type": part.headers.get("Content-Type", guessed),
        "size": size,
        "etag": md5.hexdigest(),
        "checksums": {"sha256": sha256.hexdigest(), "md5": md5.hexdigest()},
    }
