"""Uploaded files: their facts are kept for a day, their bytes not at all.

A caller needs a URL to hand to a model, and no model here ever reads it. Sizes and checksums are
worked out while the upload streams through, so a hundred megabytes cost no memory. A model does
notice a file that is not there for it: never uploaded, somebody else's, or older than a day.
"""

import hashlib
import json
import mimetypes
import re
import secrets
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from aiohttp import BodyPartReader, web

from simulator import responses
from simulator.accounts import MINUTE, Clock
from simulator.predictions import Creation, timestamp

LARGEST_BYTES = 100 * 10**6
LIFE = 24 * 60 * MINUTE
_REMEMBERED = 10_000
_LARGEST_METADATA = 64 * 2**10


_URL = re.compile(r"https?://([^/?#]+)/v1/files/([^/?#]+)")


@dataclass(frozen=True, slots=True)
class UploadRecord:
    """One uploaded file, for a test to look at. `size` is in bytes, `sha256` in hexadecimal digits."""

    id: str
    name: str
    content_type: str
    size: int
    sha256: str
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Upload:
    """An upload's facts as the wire shows them, whose it is, and until when by the simulator's clock."""

    facts: Mapping[str, Any]
    token: str = field(repr=False)
    expires: int


class Uploads:
    """The latest uploads of everybody, by id.

    Args:
        clock: The monotonic nanoseconds that their day is measured on.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._by_id: OrderedDict[str, _Upload] = OrderedDict()

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
            "expires_at": timestamp(now + timedelta(microseconds=LIFE // 1000)),
            "urls": {"get": f"{base_url}/v1/files/{name}"},
        }
        self._by_id[name] = _Upload(facts, token, self._clock() + LIFE)
        if len(self._by_id) > _REMEMBERED:
            self._by_id.popitem(last=False)
        return facts

    def find(self, name: str, *, token: str) -> Mapping[str, Any] | None:
        """The metadata of one upload, if it is that account's and not expired."""
        found = self._by_id.get(name)
        if found is None or found.token != token or self._clock() >= found.expires:
            return None
        return found.facts

    def failed_download(self, made: Creation) -> str | None:
        """The error of a prediction whose input points at a file here that it cannot have, or None.

        That it fails, and says it could not download its input, is Replicate's way; the wording is ours.
        """
        for name, url, upload in _files(made):
            if self.find(upload, token=made.token) is None:
                return f"Failed to download input.{name}: 404 Not Found for {url}"
        return None

    def records(self) -> list[UploadRecord]:
        """All that are remembered, oldest first."""
        return [_record(upload) for upload in self._by_id.values()]

    def clear(self) -> None:
        """Forget them all."""
        self._by_id.clear()


def _files(made: Creation) -> Iterator[tuple[str, str, str]]:
    """The inputs of a creation that are URLs of files here: the input's name, the URL, and the file's id."""
    here, model = urlsplit(made.base_url).netloc, made.model
    for name, value in made.input.items():
        if name == "prompt" or (model.inputs and name not in model.inputs):
            continue
        for each in value if isinstance(value, list) else [value]:
            found = _URL.fullmatch(each) if isinstance(each, str) else None
            if found is not None and found[1] == here:
                yield name, each, found[2]


def _record(upload: _Upload) -> UploadRecord:
    facts = upload.facts
    return UploadRecord(
        id=facts["id"],
        name=facts["name"],
        content_type=facts["content_type"],
        size=facts["size"],
        sha256=facts["checksums"]["sha256"],
        token=upload.token,
    )


async def _read(request: web.Request) -> tuple[dict[str, Any], Any]:
    facts: dict[str, Any] | None = None
    metadata: Any = {}
    if not request.content_type.startswith("multipart/"):
        raise responses.malformed("Multipart form data is expected")
    try:
        async for part in await request.multipart():
            if isinstance(part, BodyPartReader) and part.name == "content":
                facts = await _facts(part)
            elif isinstance(part, BodyPartReader) and part.name == "metadata":
                metadata = json.loads((await part.read_chunk(_LARGEST_METADATA)).decode())
    except ValueError as reason:
        raise responses.malformed(f"Multipart form parse error: {reason}") from reason
    if facts is None:
        raise responses.malformed("Missing content")
    return facts, metadata


async def _facts(part: BodyPartReader) -> dict[str, Any]:
    size, sha256, md5 = 0, hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    while chunk := await part.read_chunk(2**16):
        size += len(chunk)
        if size > LARGEST_BYTES:
            raise responses.malformed("The file is larger than 100 MB", status=413)
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
