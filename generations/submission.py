"""A submission: one valid request with everything that is needed to accept it, handed in whole."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from auth import Caller
from catalog.references import Upload
from errors import LedgerDown
from ledger.records import PlanRecord
from parsing.attachments import Attachments
from parsing.shapes import BatchRequest, GenerationRequest
from providers import number


@dataclass(frozen=True, slots=True)
class BodyFingerprint:
    """Identifies a body. Equivalent bodies on the same route have the same `current`, however they write a number or
    leave out a field. Before 0.6.0 the ledger kept `earlier`, by which 3 and 3.0 differ."""

    current: str
    earlier: str

    def matches(self, kept: str) -> bool:
        return kept in {self.current, self.earlier}


NO_FINGERPRINT: Final = BodyFingerprint("", "")
"""Of a submission without a key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """One request of a caller.

    `request_json` is the request as text, for a batch the shared fields and then each item; it is parsed again if
    the process dies. `wait_seconds` is how long its caller waits for the end: None for as long as it takes, 0 not at
    all. `address` is where the caller reached this service.
    """

    id: str
    request: GenerationRequest | BatchRequest
    request_json: Sequence[str]
    caller: Caller
    request_id: str
    address: str
    simulated: bool
    plan: PlanRecord | None = None
    key: str | None = None
    fingerprint: BodyFingerprint = NO_FINGERPRINT
    wait_seconds: float | None = None

    @property
    def detached(self) -> bool:
        """Whether its caller can come back for it."""
        return self.key is not None or self.wait_seconds == 0


def request_texts(
    work_id: str, request: GenerationRequest | BatchRequest, attachments: Attachments
) -> list[str]:
    """The request as `Submission.request_json` has it, its uploaded files kept under `work_id`. Blocks.

    Raises LedgerDown if the files cannot be kept."""
    if isinstance(request, BatchRequest):
        parts = [request.shared, *(each.given for each in request.requests)]
    else:
        parts = [request.given]
    try:
        return [attachments.written(work_id, part) for part in parts]
    except OSError as error:
        attachments.remove(work_id)
        raise LedgerDown(f"Its images cannot be kept: {error.strerror}. Nothing was spent.") from error


def kept_key(key: str | None, *, simulated: bool) -> str | None:
    """The key under which the ledger keeps the caller's. The result of a simulation never answers a real request, so
    its keys are apart: no key of a caller has a space."""
    return f"simulated {key}" if key is not None and simulated else key


def body_fingerprint(
    route: str, body: Any, *, normalise: Callable[[Any], Any] = lambda body: body
) -> BodyFingerprint:
    """Two bodies that `normalise` makes equal have the same. Reads the files that came with the body; blocks."""
    text = json.dumps([route, body], sort_keys=True, default=_content)
    # Read again, so that every number is seen, however deep.
    _, alone = json.loads(text, parse_float=number)
    alike = json.dumps([route, normalise(alone)], sort_keys=True)
    return BodyFingerprint(*(_digest(each) for each in (alike, text)))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def _content(upload: Upload) -> str:
    upload.file.seek(0)
    digest = hashlib.sha256()
    while chunk := upload.file.read(1024 * 1024):
        digest.update(chunk)
    upload.file.seek(0)
    return digest.hexdigest()
