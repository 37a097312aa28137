"""The records of named keys: who may do what, what each has spent, and what administrators did.

Moments are Unix times in seconds, amounts are USD.
"""

from dataclasses import dataclass
from typing import Final, Literal

Role = Literal["admin", "caller", "viewer", "metrics"]
"""What a key may do: everything; generate, and see and cancel its own work; see everything; read the metrics."""

MAY_GENERATE: Final[frozenset[Role]] = frozenset({"admin", "caller"})
"""The roles of keys that may generate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKeyRecord:
    """A named key. `id` is also the id of its caller. `digest` is a keyed hash of its text, and `prefix` how the text
    begins.

    The text before the last rotation, with the digest `previous_digest`, is accepted until `previous_until`. None means
    no limit, and no `models` means all. `budget_usd` is for each `budget_period`. `tags` is a JSON object of texts.
    `revision` numbers the changes of all keys, in the order in which they were committed. A deleted key keeps its row.
    With `safety` off, prompts of the key are not checked.
    """

    id: str
    name: str
    role: Role
    digest: str
    prefix: str
    previous_digest: str | None = None
    previous_until: float | None = None
    max_concurrent: int | None = None
    requests_per_minute: int | None = None
    max_queued: int | None = None
    budget_usd: float | None = None
    budget_period: Literal["day", "week", "month"] | None = None
    models: tuple[str, ...] = ()
    tags: str = "{}"
    created_at: float
    expires_at: float | None = None
    deleted_at: float | None = None
    revision: int = 0
    safety: Literal["on", "off"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendingRecord:
    """What one process has spent for a `payer`, and what it had reserved when it last wrote this.

    `period` is a day (UTC), such as `2026-11-01`: all that work costs counts on the day on which it was accepted.
    Longer periods are sums. `process` is empty if only one process uses the ledger. Any other
    word in its place marks a notice of the period that begins then (`ledger.claims.ClaimNotice`)."""

    payer: str
    period: str
    simulated: bool
    process: str
    spent: float
    reserved: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRecord:
    """One act of an administrator. `actor` is the id of the key, or `admin`. `details` is a JSON object."""

    at: float
    id: str
    actor: str
    actor_name: str
    action: str
    target: str
    details: str
    request_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LostCallRecord:
    """A call whose connection was lost, and whose work no retry has joined yet. `body_fingerprint` identifies its
    body. `answered_try` is None if no answer was written. Else it is the number of the try, from 0, to which one was
    written whose connection ended at once, so that it probably did not arrive. That is `unsure` if it is not known
    whether the caller keeps its connections."""

    caller_id: str
    body_fingerprint: str
    work_id: str
    accepted_at: float
    lost_at: float
    answered_try: int | None = None
    unsure: bool = False
