"""A submission: one valid request with everything that is needed to accept it."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final

from auth import Caller
from catalog.references import Upload
from errors import LedgerDown
from generations.generation import Item
from ledger.records import PlanRecord
from parsing.attachments import Attachments
from parsing.shapes import BatchRequest, GenerationRequest
from providers.fingerprints import number


@dataclass(frozen=True, slots=True)
class BodyFingerprint:
    """Identifies a request body. Equivalent bodies on the same route have the same `current`, even if they write a
    number differently or omit a default. Before 0.6.0 the ledger kept `earlier`, which differs for 3 and 3.0."""

    current: str
    earlier: str

    def matches(self, kept: str) -> bool:
        return kept in {self.current, self.earlier}


NO_FINGERPRINT: Final = BodyFingerprint("", "")
"""The fingerprint of a submission without a key."""


@dataclass(frozen=True, slots=True)
class ItemKey:
    """The idempotency key of one item of a batch. Its new generation is `work_id`, unless there is one with the key."""

    key: str
    fingerprint: BodyFingerprint
    work_id: str


NO_KEYS: Final[Mapping[int, ItemKey]] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """One request of a caller.

    `request_json` is the request as text, for a batch first the shared fields and then each item. The next process
    parses it again after a crash. `wait_seconds` is how long the caller waits for the end: None without limit, 0 not
    at all. `submitted_at` (Unix time) counts as the time of its acceptance. `address` is the base URL under which the
    caller reached this service. `door`, `door_facts` and `body_fingerprint` are as in `GenerationRecord`. `item_keys`
    are the keys of the items of a batch by their places, and `joined` are the items that were there before.
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
    door: str | None = None
    door_facts: str | None = None
    submitted_at: float = field(default_factory=time.time)
    body_fingerprint: str | None = None
    item_keys: Mapping[int, ItemKey] = field(default_factory=lambda: NO_KEYS)
    joined: Mapping[int, Item] = field(default_factory=dict)

    @property
    def bound(self) -> float:
        """The most USD that it may cost without retries and fallbacks."""
        if not isinstance(self.request, BatchRequest):
            return self.request.bound
        return sum(each.bound for _, each in self.own_requests(self.request))

    def own_requests(self, request: BatchRequest) -> Iterator[tuple[int, GenerationRequest]]:
        """The requests that are not there yet, with their places."""
        return ((place, each) for place, each in enumerate(request.requests) if place not in self.joined)

    @property
    def detached(self) -> bool:
        """Whether it continues without a waiting caller, who can come back for it."""
        return self.key is not None or self.wait_seconds == 0


def request_texts(
    work_id: str, request: GenerationRequest | BatchRequest, attachments: Attachments
) -> list[str]:
    """The texts for `Submission.request_json`. Stores the uploaded files under `work_id`. Blocks.

    Raises LedgerDown if the files cannot be stored."""
    if isinstance(request, BatchRequest):
        parts = [request.shared, *(each.given for each in request.requests)]
    else:
        parts = [request.given]
    try:
        numbers = count()
        return [attachments.written(work_id, part, numbers) for part in parts]
    except OSError as error:
        attachments.forget(work_id)
        reason = error.strerror or error
        raise LedgerDown(f"The uploaded images cannot be stored: {reason}. Nothing was spent.") from error


def ledger_key(key: str | None, *, simulated: bool) -> str | None:
    """The form of a caller's idempotency key in the ledger. Keys of simulated requests contain a space, which
    callers' keys cannot contain. So a real request never gets a simulated result."""
    return f"simulated {key}" if key is not None and simulated else key


def body_fingerprint(
    route: str, body: Any, *, normalise: Callable[[Any], Any] = lambda body: body
) -> BodyFingerprint:
    """The fingerprint of a body on a route, the same for bodies that `normalise` makes equal. Reads the uploaded files;
    blocks."""
    text = json.dumps([route, body], sort_keys=True, default=_content)
    # Parsed again, to rewrite the numbers at any depth.
    _, alone = json.loads(text, parse_float=number)
    alike = json.dumps([route, normalise(alone)], sort_keys=True)
    return BodyFingerprint(
        *(hashlib.sha256(each.encode(errors="surrogatepass")).hexdigest() for each in (alike, text))
    )


def _content(upload: Upload) -> str:
    upload.file.seek(0)
    digest = hashlib.file_digest(upload.file, "sha256")  # type: ignore[arg-type]  # `BinaryIO` omits `readinto`
    upload.file.seek(0)
    return digest.hexdigest()
