"""Fetches one output into a file, from the first address that still has it. No address gets a key."""

from __future__ import annotations

import binascii
import os
import secrets
from base64 import b64decode, urlsafe_b64decode
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote_to_bytes

import httpx

from replicate_concurrent.errors import BadOutput, ConnectionLost, OutputLost, ReplicateConcurrentError
from replicate_concurrent.filetypes import (
    MEDIA,
    PICTURES,
    extension_of,
    is_page,
    is_text,
    medium,
    of_type,
    sniffed,
)
from replicate_concurrent.operations.sending import Service, pause_after
from replicate_concurrent.operations.steps import Chunk, Close, Open, Operation, Pause, Request, do, now

_READ = 60.0
"""Seconds for each read."""

_HEAD = 512
"""The first bytes, which show the type."""

_GONE = (401, 403, 404, 410)
"""Replicate and its storage answer these for an output that has expired."""

_TEMPORARY = (429, 500, 502, 503, 504)

_BRIEFLY = 5
"""Attempts at an address that answers 5xx, or breaks off in the middle."""


@dataclass(frozen=True)
class Fetched:
    """A file beside its place, and the extension of its type, without a dot."""

    path: Path
    extension: str


@dataclass(frozen=True)
class _Broken:
    """An attempt that failed, and may succeed next time: what was answered, and the error if it was the last one."""

    answer: httpx.Response | httpx.RequestError | None
    error: ReplicateConcurrentError


class _Gone(Exception):
    """The address does not have the output any more."""


class _Short(Exception):
    """The body was not of the length that its headers state."""


def fetch(
    service: Service, addresses: Sequence[str], directory: Path, *, deadline: float
) -> Operation[Fetched]:
    """The output, in a new file of the directory.

    Raises OutputLost if no address has it, BadOutput, ConnectionLost, and OSError if it cannot be written.
    """
    for address in addresses:
        path = yield from do(beside, directory)
        try:
            if address.startswith("data:"):
                head, named = (yield from do(_decoded, address, path)), extension_of(address)
            else:
                head, named = yield from _from_url(service, address, path, deadline)
            return Fetched(path, _checked(address, head, named))
        except _Gone:
            remove(path)
        except BaseException:
            remove(path)
            raise
    raise OutputLost(f"No place keeps this output any more: {', '.join(addresses)}")


def write_beside(directory: Path, content: bytes) -> Path:
    """Write a content that is at hand into a file of the directory."""
    path = beside(directory)
    _write(path, content)
    return path


def remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def _from_url(service: Service, url: str, path: Path, deadline: float) -> Operation[tuple[bytes, str | None]]:
    """The first bytes of what was written, and the extension that the answer names. Raises as `fetch`, and _Gone."""
    attempt = 0
    while True:
        left = deadline - (yield from now())
        written = yield from _tried(url, path, max(1.0, min(_READ, left)))
        if not isinstance(written, _Broken):
            return written
        pause = pause_after(written.answer, attempt, service.jitter())
        attempt += 1
        if attempt >= _BRIEFLY or (yield from now()) + pause > deadline:
            raise written.error
        yield Pause(pause)


def _tried(url: str, path: Path, timeout: float) -> Operation[tuple[bytes, str | None] | _Broken]:
    response: httpx.Response | None = None
    try:
        response = yield Open(Request("GET", url, timeout=timeout, follow_redirects=True))
        if response.status_code == 200:
            head = yield from _written(response, path)
            return head, extension_of(url) or of_type(response.headers.get("content-type", ""))
        yield Close(response)
    except httpx.InvalidURL as error:
        raise BadOutput(f"{url} is no address: {error}") from error
    except httpx.RequestError as error:
        return _Broken(error, ConnectionLost(f"{url} broke off: {str(error) or type(error).__name__}"))
    except _Short as error:
        return _Broken(response, BadOutput(f"{url} came with {error}"))
    if response.status_code in _GONE:
        raise _Gone
    reason = f"{url} answered {response.status_code} {response.reason_phrase}"
    if response.status_code in _TEMPORARY:
        return _Broken(response, ConnectionLost(reason))
    raise BadOutput(reason)


def _written(response: httpx.Response, path: Path) -> Operation[bytes]:
    """Write the body to the file. Returns its first bytes. Raises _Short if it is not of its length."""
    head, size = b"", 0
    with (yield from do(path.open, "wb")) as file:
        while chunk := (yield Chunk(response)):
            yield from do(file.write, chunk)
            size += len(chunk)
            head = head if len(head) >= _HEAD else (head + chunk)[:_HEAD]
        yield from do(sync, file)
    headers = response.headers
    stated = headers.get("content-length")
    if stated is not None and "content-encoding" not in headers and int(stated) != size:
        raise _Short(f"{size} of {stated} bytes")
    return head


def _checked(url: str, head: bytes, named: str | None) -> str:
    """The extension of the output. Raises BadOutput if it is empty, or no file of its type."""
    shown = url if len(url) <= 200 else url[:200] + "…"
    if not head:
        raise BadOutput(f"{shown} is empty")
    if is_page(head) and named not in ("html", "htm", "svg"):
        raise BadOutput(f"{shown} is a web page, and not the output")
    found = sniffed(head)
    if named in PICTURES and found is None:
        raise BadOutput(f"{shown} is no {named} picture")
    if named in MEDIA and found is None and is_text(head):
        raise BadOutput(f"{shown} is a text, and no {named} file")
    return found or medium(head, named) or named or "bin"


def _decoded(uri: str, path: Path) -> bytes:
    """Write the content of a `data:` URI. Returns its first bytes. Raises BadOutput."""
    kind, _, text = uri.partition(",")
    try:
        if not kind.rstrip().endswith(";base64"):
            content = unquote_to_bytes(text)
        else:
            raw = unquote_to_bytes(text)
            content = urlsafe_b64decode(raw) if set(raw) & set(b"-_") else b64decode(raw, validate=False)
    except (ValueError, binascii.Error) as error:
        raise BadOutput(f"a data: URI cannot be read: {error}") from error
    _write(path, content)
    return content[:_HEAD]


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        sync(file)


def sync(file: BinaryIO) -> None:
    """To the disk, so that a file that has its name is whole, also after a power cut."""
    file.flush()
    os.fsync(file.fileno())


def beside(directory: Path) -> Path:
    """A new file in the directory, which is made."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f".{secrets.token_hex(8)}.part"
    path.touch(exist_ok=False)
    return path
