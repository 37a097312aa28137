"""The files of a request that are not in its body as such: uploads that it names by their addresses, and inline files.

All functions run in a Flask thread, inside a request.
"""

from dataclasses import dataclass
from typing import Any

from flask import request

from api import incoming
from auth import Caller
from catalog.inputs import Input
from catalog.references import INLINE, Upload
from doors.replicate.resources import file_id
from errors import InvalidRequest, LedgerDown, NotFound, PayloadTooLarge, Problem
from files.caller_files import CallerFiles
from parsing import inline_files
from parsing.context import ParseContext
from parsing.file_inputs import with_changed_files
from parsing.multipart_form import MAX_PARTS


def with_files(body: Any, context: ParseContext, caller: Caller) -> Any:
    """The body with the caller's uploaded files in place of their addresses, and with its large inline files on the
    disk, so that waiting work does not hold them in memory. Raises InvalidRequest, PayloadTooLarge, and LedgerDown if a
    file cannot be read or written."""
    most = incoming.service().settings.MAX_UPLOAD_BYTES
    body = with_changed_files(body, context, _Named(caller, most_bytes=most).file)
    size = request.content_length
    if size is not None and size <= INLINE:
        return body
    try:
        return inline_files.moved(body, incoming.service().uploads_dir, context)
    except OSError as error:
        raise LedgerDown(f"The files cannot be stored: {error.strerror}. Nothing was spent.") from error


def uploaded(caller: Caller, text: str, field: str) -> Upload | None:
    """The caller's uploaded file at the address in a field; None if it is no address of one. Raises InvalidRequest if
    it is gone, and LedgerDown if it cannot be read."""
    found = file_id(text)
    if found is None:
        return None
    try:
        opened = caller_files().open(caller.id, found)
    except OSError as error:
        raise LedgerDown(f"An uploaded file cannot be read: {error}. Nothing was spent.") from error
    if opened is None:
        raise InvalidRequest(
            [Problem(field, "names an uploaded file that does not exist, or has expired", text)]
        )
    return Upload(opened)


def caller_files() -> CallerFiles:
    """The files of callers. Raises NotFound if this service cannot keep any."""
    files = incoming.service().attachments.caller_files
    if files is None:
        raise NotFound("This service keeps no uploads, since its DATA_DIR cannot be written.")
    return files


@dataclass(slots=True)
class _Named:
    """The uploads that one request names. Each place that names one gets a copy, so they are limited as the files of a
    form are."""

    caller: Caller
    most_bytes: int
    bytes: int = 0
    count: int = 0

    def file(self, field: str, _: Input | None, text: str) -> str | Upload:
        """The file at an address; another text stays. Raises as `uploaded`, and PayloadTooLarge."""
        found = uploaded(self.caller, text, field)
        if found is None:
            return text
        self.count += 1
        self.bytes += found.size
        if self.count > MAX_PARTS or self.bytes > self.most_bytes:
            raise PayloadTooLarge(
                f"The uploads that the request names are more than {MAX_PARTS}, or have more than "
                f"{self.most_bytes} bytes. In a batch of prompts, a shared one counts once."
            )
        return found
