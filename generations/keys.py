"""Named keys: made, changed, rotated and deleted by administrators, in the ledger of all processes.

Changes of keys come one after the other. Each writes the next revision, and fails if another change took it meanwhile.
Then it is tried again with the key as it is now. It is written together with its entry in the audit trail, by which a
request with an idempotency key finds what an earlier one with the same key has done.
"""

import asyncio
import json
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final

from admission.sliding_window import WINDOW
from auth import KEY_START, Principal
from cluster.letters import Letters
from contract.callers import KEY_PREFIX
from contract.states import iso8601
from errors import IdempotencyConflict, InvalidRequest, LedgerDown, NotFound
from generations.archive import Archive
from generations.audit import Actor
from generations.key_budgets import KeyBudgets
from generations.key_directory import KeyDirectory
from generations.key_texts import NewText, new_text
from generations.shared import announce
from ledger import ActsPage, Ledger, Place, Queries
from ledger.access_records import MAY_GENERATE, ApiKeyRecord, AuditRecord
from ledger.claims import ClaimApiKey
from loop_thread import finish
from parsing.keys import budget_problems
from webhooks.signing import SigningSecrets

_SHOWN: Final = len(KEY_START) + 6
"""Characters of the text that lists show."""

_TRIES: Final = 50
"""How often a change is tried while other processes change keys. Each time, one of them succeeds."""

_UNKNOWN: Final = "No key has this id."

_BUSY: Final = "Other processes keep changing keys. The change was not made."


_OTHER_REQUEST: Final = "This Idempotency-Key was used for another request. Use a new key for each request."

_OTHER_TEXT: Final = (
    "The key of this request was rotated or deleted since. Use a new Idempotency-Key for each request."
)


@dataclass(frozen=True, slots=True)
class _Change:
    """A change of the key with the id `key_id`, or a new key if that is None. `apply` returns the changed key, and
    `text` is its new text if it gets one."""

    key_id: str | None
    apply: Callable[[Any], ApiKeyRecord]
    action: str
    details: Mapping[str, Any]
    actor: Actor
    text: NewText | None = None

    @property
    def act_id(self) -> str | None:
        return None if self.text is None else self.text.act_id

    def act(self, key: ApiKeyRecord) -> AuditRecord:
        details = {"name": key.name, **_as_json(self.details)}
        return self.actor.act(f"keys.{self.action}", key.id, details, act_id=self.act_id)

    def is_of(self, act: AuditRecord) -> bool:
        """Whether an act of the same idempotency key did this change. A key may have another name since."""
        before, now = json.loads(act.details), json.loads(json.dumps(_as_json(self.details)))
        is_same = act.action == f"keys.{self.action}" and self.key_id in {None, act.target}
        return is_same and before == {"name": before["name"], **now}


class NamedKeys:
    """The service of `/keys`. `digest` hashes the text of a key, `webhook_secrets` are shown to keys, and `letters`
    announce a change to other processes.

    All methods are called on the loop, and raise LedgerDown."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        archive: Archive,
        directory: KeyDirectory,
        budgets: KeyBudgets,
        digest: Callable[[str], str],
        webhook_secrets: SigningSecrets,
        letters: Letters | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._ledger = ledger
        self._archive = archive
        self.directory = directory
        self._digest = digest
        self._webhook_secrets = webhook_secrets
        self._letters = letters
        if letters is not None:
            letters.on("keys", lambda _: directory.refresh())
        self._budgets = budgets
        self._now = now
        self._changing = asyncio.Lock()

    async def create(
        self, fields: Mapping[str, Any], actor: Actor, idempotency_key: str | None = None
    ) -> tuple[ApiKeyRecord, str]:
        """A new key with these fields (`parsing.keys.parse_key`), and its text, which is kept nowhere. A repetition
        with the same idempotency key returns the same. Raises IdempotencyConflict."""
        new = new_text(actor.id, idempotency_key, self._digest)
        key = ApiKeyRecord(
            id=KEY_PREFIX + secrets.token_hex(16),
            digest=self._digest(new.text),
            prefix=new.text[:_SHOWN],
            created_at=self._now(),
            **_as_columns(fields),
        )
        made = await self._change(_Change(None, lambda _: key, "create", fields, actor, new))
        return made, new.text

    async def change(self, key_id: str, fields: Mapping[str, Any], actor: Actor) -> ApiKeyRecord:
        """Change these fields (`parsing.keys.parse_changes`). Raises NotFound, and InvalidRequest if the key would have
        a budget without a period."""
        if fields.get("budget_usd", 0) is None:
            fields = {**fields, "budget_period": fields.get("budget_period")}

        def changed(key: ApiKeyRecord) -> ApiKeyRecord:
            made = replace(key, **_as_columns(fields))
            if problems := budget_problems(
                {"budget_usd": made.budget_usd, "budget_period": made.budget_period}
            ):
                raise InvalidRequest(problems)
            return made

        return await self._change(_Change(key_id, changed, "update", fields, actor))

    async def rotate(
        self, key_id: str, grace: float, actor: Actor, idempotency_key: str | None = None
    ) -> tuple[ApiKeyRecord, str]:
        """Give the key another text, and accept the present one for `grace` more seconds. A repetition with the same
        idempotency key returns the same. Raises NotFound and IdempotencyConflict."""
        new = new_text(actor.id, idempotency_key, self._digest)

        def rotated(key: ApiKeyRecord) -> ApiKeyRecord:
            return replace(
                key,
                digest=self._digest(new.text),
                prefix=new.text[:_SHOWN],
                previous_digest=key.digest if grace > 0 else None,
                previous_until=self._now() + grace if grace > 0 else None,
            )

        details = {"grace_seconds": grace}
        made = await self._change(_Change(key_id, rotated, "rotate", details, actor, new))
        return made, new.text

    async def delete(self, key_id: str, actor: Actor) -> None:
        """Delete a key. Its waiting work is cancelled in every process. Raises NotFound."""

        def deleted(key: ApiKeyRecord) -> ApiKeyRecord:
            return replace(key, deleted_at=self._now())

        await self._change(_Change(key_id, deleted, "delete", {}, actor))

    async def get(self, key_id: str) -> ApiKeyRecord:
        """A key, which may be deleted. Raises NotFound."""
        found = await self._archive.read(lambda queries: queries.api_key(key_id))
        if found is None:
            raise NotFound(_UNKNOWN)
        return found

    async def page(self, *, limit: int, before: Place | None) -> Sequence[ApiKeyRecord]:
        """The keys that are not deleted, the newest first."""
        return await self._archive.read(lambda queries: queries.api_keys(limit=limit, before=before))

    async def own(self, principal: Principal) -> dict[str, Any]:
        """The key of the principal as JSON, with what it has spent, its work in all processes, and the secret that
        signs its webhooks if its role may generate."""
        key, caller = principal.key, principal.caller
        shown: dict[str, Any] = {"id": principal.id, "name": principal.id, "role": principal.role}
        if key is not None:
            shown = {**view(key), "budget": (await self._budgets.spending(key)).as_json()}
            if key.role in MAY_GENERATE:
                shown["webhook_secret"] = self._webhook_secrets.own(key.id)
        if caller is None or not caller.is_proven:
            return shown
        with suppress(LedgerDown):  # so that what was accepted just now counts
            await self._ledger.flush()
        work = await self._archive.read(lambda queries: queries.present_work(caller.id, self._now() - WINDOW))
        used = {"in_flight": work.in_flight, "waiting": work.waiting, "created_last_minute": work.created}
        return {**shown, **used}

    async def acts(self, page: ActsPage) -> Sequence[AuditRecord]:
        """The acts of administrators on this page, and one more if there is one."""
        more = replace(page, limit=page.limit + 1)
        return await self._archive.read(lambda queries: queries.acts(more))

    async def _change(self, change: _Change) -> ApiKeyRecord:
        """Change a key, or add one. Returns when all processes know the change, but for those that do not answer soon.
        If the wait is cancelled, the change goes on, since it may be done."""
        return await finish(self._write(change))

    async def _write(self, change: _Change) -> ApiKeyRecord:
        def read(queries: Queries) -> tuple[int, ApiKeyRecord | None, bool]:
            # In this order: a later change is found by its revision.
            last = queries.last_key_revision()
            earlier = None if change.act_id is None else queries.act(change.act_id)
            key_id = change.key_id if earlier is None else earlier.target
            if earlier is not None and not change.is_of(earlier):
                raise IdempotencyConflict(_OTHER_REQUEST)
            return last, None if key_id is None else queries.api_key(key_id), earlier is not None

        async with self._changing:
            for _ in range(_TRIES):
                last, before, is_done = await self._archive.read(read)
                if is_done:
                    record = self._with_text(before, change.text)
                    break
                if change.key_id is not None:
                    _require_present(before)
                record = replace(change.apply(before), revision=last + 1)
                if await self._ledger.claim(ClaimApiKey(record, change.act(record))):
                    break
            else:
                raise LedgerDown(_BUSY)
            # The change is made, and requests read it once the ledger answers.
            with suppress(LedgerDown):
                await self.directory.refresh()
        if self._letters is not None:
            await announce(self._letters, "keys")
        return record

    def _with_text(self, key: ApiKeyRecord | None, new: NewText | None) -> ApiKeyRecord:
        """The key of an earlier request. Raises IdempotencyConflict unless it still has the text of that request."""
        if key is None or new is None or key.deleted_at is not None or key.digest != self._digest(new.text):
            raise IdempotencyConflict(_OTHER_TEXT)
        return key


def view(key: ApiKeyRecord) -> dict[str, Any]:
    """A key as JSON, without its text."""
    return {
        "id": key.id,
        "name": key.name,
        "prefix": key.prefix,
        "role": key.role,
        "max_concurrent": key.max_concurrent,
        "requests_per_minute": key.requests_per_minute,
        "max_queued": key.max_queued,
        "budget_usd": key.budget_usd,
        "budget_period": key.budget_period,
        "models": list(key.models) or None,
        "safety": key.safety or "on",
        "tags": json.loads(key.tags),
        "created_at": iso8601(key.created_at),
        "expires_at": _moment(key.expires_at),
        "deleted_at": _moment(key.deleted_at),
        "previous_valid_until": _moment(key.previous_until),
    }


def _require_present(key: ApiKeyRecord | None) -> None:
    """Raises NotFound for a key that does not exist or is deleted."""
    if key is None:
        raise NotFound(_UNKNOWN)
    if key.deleted_at is not None:
        raise NotFound(f"The key with this id was deleted at {iso8601(key.deleted_at)}.")


def _as_columns(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {**fields, **({"tags": json.dumps(fields["tags"] or {})} if "tags" in fields else {})}


def _as_json(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a key for the audit trail."""
    return {
        name: iso8601(value) if name == "expires_at" and value else value for name, value in fields.items()
    }


def _moment(at: float | None) -> str | None:
    return None if at is None else iso8601(at)
