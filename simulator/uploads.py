"""Uploaded files: their metadata is kept for a day, their content is not.

Callers need a URL to pass to a model, and no model here reads it. Size and checksums are computed while the upload
streams through, so 100 MiB take no memory. Of a zip or a tar, the number of its images is kept, for trainings. A
prediction fails if its input is a file of this server that does not exist,
has expired, or belongs to another account.
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
from simulator.archives import ImageCounter
from simulator.predictions import Creation, timestamp
from simulator.windows import MINUTE, Clock

LARGEST_BYTES = 100 * 2**20
LIFETIME = 24 * 60 * MINUTE
_KEPT = 10_000
_LARGEST_METADATA = 64 * 2**10


_URL = re.compile(r"https?://([^/?#]+)/v1/files/([^/?#]+)")


@dataclass(frozen=True, slots=True)
class UploadRecord:
    """An uploaded file, for tests. `size` is in bytes, `sha256` in hexadecimal digits."""

    id: str
    name: str
    content_type: str
    size: int
    sha256: str
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Upload:
    """The metadata of an upload as responses show it, its token, its expiry on the simulator's clock, and the number of
    images in it if it is an archive."""

    facts: Mapping[str, Any]
    token: str = field(repr=False)
    expires: int
    images: int


class Uploads:
    """The latest uploads of all accounts, by id.

    Args:
        clock: Monotonic nanoseconds, for their expiry.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._by_id: OrderedDict[str, _Upload] = OrderedDict()

    async def receive(self, request: web.Request, *, token: str, base_url: str) -> dict[str, Any]:
        """Receive a multipart upload. Returns its metadata.

        Raises:
            ApiError: If it is not multipart, lacks the field `content`, or is too large.
        """
        facts, metadata, images = await _read(request)
        now = datetime.now(UTC)
        name = secrets.token_hex(18)
        facts |= {
            "id": name,
            "metadata": metadata,
            "created_at": timestamp(now),
            "expires_at": timestamp(now + timedelta(microseconds=LIFETIME // 1000)),
            "urls": {"get": f"{base_url}/v1/files/{name}"},
        }
        self._by_id[name] = _Upload(facts, token, self._clock() + LIFETIME, images)
        if len(self._by_id) > _KEPT:
            self._by_id.popitem(last=False)
        return facts

    def find(self, name: str, *, token: str) -> Mapping[str, Any] | None:
        """The metadata of an upload of this account, or None if it does not exist or has expired."""
        found = self._by_id.get(name)
        if found is None or found.token != token or self._clock() >= found.expires:
            return None
        return found.facts

    def delete(self, name: str, *, token: str) -> bool:
        """Delete an upload of this account. Returns whether there was one."""
        if self.find(name, token=token) is None:
            return False
        del self._by_id[name]
        return True

    def images(self, url: str, *, token: str) -> int | None:
        """The number of images in the upload of this account at a URL, 0 if it is no archive. None if there is none."""
        found = _URL.fullmatch(url)
        if found is None or self.find(found[2], token=token) is None:
            return None
        return self._by_id[found[2]].images

    def failed_download(self, made: Creation) -> str | None:
        """The error of a prediction whose input names a file of this server that its account does not have, or None.

        Replicate fails such a prediction too, with a message of similar content.
        """
        for name, url, upload in _files(made):
            if self.find(upload, token=made.token) is None:
                return f"Failed to download input.{name}: 404 Not Found for {url}"
        return None

    def records(self) -> list[UploadRecord]:
        """The kept uploads, oldest first."""
        return [_record(upload) for upload in self._by_id.values()]

    def clear(self) -> None:
        """Drop all uploads."""
        self._by_id.clear()


def _files(made: Creation) -> Iterator[tuple[str, str, str]]:
    """The inputs that are URLs of this server's files: the input's name, the URL, and the file's id."""
    here, known = urlsplit(made.base_url).netloc, made.schema.inputs
    for name, value in made.input.items():
        if name == "prompt" or (known and name not in known):
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


async def _read(request: web.Request) -> tuple[dict[str, Any], Any, int]:
    facts: dict[str, Any] | None = None
    metadata: Any = {}
    images = ImageCounter()
    if not request.content_type.startswith("multipart/"):
        raise responses.malformed("Multipart form data is expected")
    try:
        async for part in await request.multipart():
            if isinstance(part, BodyPartReader) and part.name == "content":
                facts = await _facts(part, images)
            elif isinstance(part, BodyPartReader) and part.name == "metadata":
                metadata = json.loads((await part.read_chunk(_LARGEST_METADATA)).decode())
    except ValueError as reason:
        raise responses.malformed(f"Multipart form parse error: {reason}") from reason
    if facts is None:
        raise responses.malformed("Missing content")
    return facts, metadata, images.number()


async def _facts(part: BodyPartReader, images: ImageCounter) -> dict[str, Any]:
    size, sha256, md5 = 0, hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    while chunk := await part.read_chunk(2**16):
        size += len(chunk)
        if size > LARGEST_BYTES:
            raise responses.malformed("The file is larger than 100 MiB", status=413)
        sha256.update(chunk)
        md5.update(chunk)
        images.feed(chunk)
    name = part.filename or "content"
    guessed = mimetypes.guess_type(name)[0] or "application/octet-stream"
    return {
        "name": name,
        "content_type": part.headers.get("Content-Type", guessed),
        "size": size,
        "etag": md5.hexdigest(),
        "checksums": {"sha256": sha256.hexdigest(), "md5": md5.hexdigest()},
    }
