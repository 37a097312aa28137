"""What Replicate publishes about models: looked up once for all processes on the ledger, and kept there.

The schema of a version never changes, so it is kept for ever. Of a schema that cannot be read, only the reason is kept.
The latest version of a model, the list of its versions, and the release of a deployment are looked up again after ten
minutes, and a model that was missing after one. While Replicate does not answer, the earlier answer is used, and marked
as stale.

A model that is not public is known only to the account that has read it with its token. Another account asks with its
own, so it learns no more than Replicate tells it.

A claim in the ledger makes a look-up the only one (`ledger.claims.ClaimLookup`), and others wait for its result. At
first there is one for all callers. If it ends without a result for this caller, the next is one for its account. So no
caller waits for more than one look-up of a stranger.
"""

import asyncio
import json
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, repeat
from typing import Any, Final, Generic, NoReturn, TypeVar

import structlog

from auth import Caller
from errors import LedgerDown, ServiceError
from generations.archive import Archive
from generations.model_rows import ModelRows, reader_of, readers_of, with_facts
from ledger import Ledger, Queries
from ledger.claims import ClaimLookup, EndLookup
from ledger.model_records import LookupRecord, ModelRecord, SchemaRecord
from providers.models import ListedVersion, ModelFacts, ModelSource, PublishedSchema
from providers.single_flight import SingleFlight

LATEST_FOR: Final = 600.0
"""Seconds for which the latest version of a model, its list of versions, and the release of a deployment are known."""

MISSING_FOR: Final = 60.0
"""Seconds for which a model is known to be missing."""

FAILED_FOR: Final = 10.0
"""Seconds after a failed look-up in which a stale answer is used without another look-up."""

LONGEST: Final = 20.0
"""Seconds until a look-up is taken over: its process may have died."""

PAUSE: Final = 0.1
"""Seconds between two queries for the end of another look-up."""

FORMS: Final = 100
"""The most compiled schemas, and rows of models, in memory. A schema has some hundred kilobytes."""

TIDY_EVERY: Final = 3600.0
"""Seconds between two deletions of missing models, and for which they are kept."""

_DEPLOYMENTS: Final = "deployments/"

_LIST: Final = ":versions"
"""Ends the name under which the list of a model's versions is looked up."""

F = TypeVar("F")

log = structlog.get_logger("models")


@dataclass(frozen=True, slots=True, kw_only=True)
class Known(Generic[F]):
    """A model as Replicate described it at `looked_up_at` (Unix time). `name` is the one that was asked for.

    If it `is_missing`, Replicate does not have it for this caller, and nothing else is known. `model` is the
    `owner/name` that has the `version`, and `form` the compiled schema; both are None without one. If it `is_stale`, it
    may have changed since. The other fields are those of `ModelFacts`."""

    name: str
    looked_up_at: float
    is_missing: bool = False
    is_stale: bool = False
    model: str | None = None
    version: str | None = None
    form: F | None = None
    is_official: bool | None = None
    is_private: bool = False
    description: str = ""
    example: Mapping[str, Any] | None = None
    run_count: int | None = None
    versions: Sequence[ListedVersion] = ()


class PublishedModels(Generic[F]):
    """Use it on the loop. `compiled` makes a form of a version's schema, on another thread. `clock` returns
    Unix time. Every coroutine raises LedgerDown if the ledger cannot be read, or if a look-up is needed and it cannot
    be written."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        archive: Archive,
        source: ModelSource,
        compiled: Callable[[PublishedSchema], F],
        simulated: bool,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._ledger = ledger
        self._archive = archive
        self._source = source
        self._compiled = compiled
        self._simulated = simulated
        self._clock = clock
        self._forms: OrderedDict[str, F] = OrderedDict()
        """By version, the one that was used last at the end."""
        self._rows = ModelRows(archive, simulated=simulated, is_fresh=self._is_fresh, most=FORMS)
        self._lookups: SingleFlight[Known[F]] = SingleFlight()

    async def facts(self, caller: Caller, name: str) -> Known[F]:
        """What this caller may know of `owner/name`, `owner/name:version` or `deployments/owner/name`. Raises the
        ServiceError of a look-up that fails, unless it is retryable and there is an earlier answer."""
        known = await self._known(readers_of(caller), name)
        if known is not None and not known.is_stale:
            return known
        return await self._lookups.run(f"{reader_of(caller)} {name}", partial(self._look_up, caller, name))

    async def version(self, caller: Caller, version: str) -> Known[F] | None:
        """The version of this id, if the caller may know it from an earlier look-up. Replicate finds none by its id
        alone."""
        row = await self._archive.read(
            lambda queries: queries.known_version(readers_of(caller), version, simulated=self._simulated)
        )
        return None if row is None else await self._shown(row)

    async def versions(self, caller: Caller | None, name: str) -> Sequence[ListedVersion]:
        """The first page of the versions of the model `owner/name`, newest first. Empty if there is none, as for an
        official model, or without a caller if it was not looked up before. Raises as `facts`."""
        known = await (self.facts(caller, name + _LIST) if caller else self.public(name + _LIST))
        return () if known is None else known.versions

    def stored(self, queries: Queries, caller: Caller, name: str, version: str | None) -> Known[F]:
        """What the ledger has of a model that it has accepted before, by its name or the `version` that was pinned.
        Without either, only its name is known. Call it in any thread."""
        row = next(iter(queries.known_model(readers_of(caller), name, simulated=self._simulated)), None)
        if row is not None and not row.missing:
            known = self._described(row)
        else:
            known = Known(name=name, looked_up_at=0.0, is_official=version is None)
        version = version or known.version
        form = None if version is None else self._forms.get(version) or self._read_form(version, queries)
        return replace(known, version=version, form=form)

    async def look_up_again(self, caller: Caller, name: str) -> str | None:
        """Look up a model that has changed just now, without the cache. Returns its latest version. Raises
        ServiceError."""
        row = await self._kept(caller, name, await self._source.find_model(caller, name))
        await self._ledger.flush()  # before another process, or this one, reads the row again
        for reader in readers_of(caller):
            self._rows.drop(reader, name)
        return row.version

    def read_again(self) -> None:
        """Read each row from the ledger again, since another process has looked models up anew."""
        self._rows.clear()

    async def public(self, name: str) -> Known[F] | None:
        """The latest answer for a public model, without a look-up. None if there is none."""
        return await self._known([""], name)

    async def latest_known(self, caller: Caller, name: str) -> str | None:
        """The latest version of `owner/name` that this caller may know, without a look-up. None if none is known."""
        known = await self._known(readers_of(caller), name)
        return None if known is None else known.version

    async def search(self, search: str, *, limit: int) -> Sequence[Known[F]]:
        """Public models that were looked up before, and have all words of `search` in their names or descriptions.
        They come without their forms."""
        rows = await self._archive.read(
            lambda queries: queries.known_models(search, limit=limit, simulated=self._simulated)
        )
        return [self._described(row) for row in rows]

    async def run(self) -> NoReturn:
        """Delete old rows each hour, until it is cancelled."""
        while True:
            await asyncio.sleep(TIDY_EVERY)
            try:
                await self.tidy()
            except LedgerDown as down:
                log.info("models_not_tidied", reason=str(down))

    async def tidy(self) -> None:
        """Delete the rows of missing models, and of look-ups, that are an hour old."""
        before = self._clock() - TIDY_EVERY
        for each in await self._archive.read(lambda queries: queries.outdated_models(before)):
            self._ledger.delete(type(each), each.reader, each.name, each.simulated)
        await self._ledger.flush()

    async def aclose(self) -> None:
        """End all look-ups."""
        await self._lookups.aclose()

    # ── Known models

    async def _known(self, readers: Sequence[str], name: str) -> Known[F] | None:
        """The latest answer for these readers, which may be stale. None if there is none, or the model was missing and
        may be there by now."""
        row = await self._rows.latest(readers, name)
        if row is None or (row.missing and not self._is_fresh(row)):
            return None
        return await self._shown(row)

    async def _shown(self, row: ModelRecord) -> Known[F]:
        known = self._described(row)
        return known if row.version is None else replace(known, form=await self._form(row.version))

    def _described(self, row: ModelRecord) -> Known[F]:
        facts = json.loads(row.facts)
        return Known(
            name=row.name,
            looked_up_at=row.looked_up_at,
            is_missing=row.missing,
            is_stale=not self._is_fresh(row),
            model=facts.get("model"),
            version=row.version,
            is_official=row.is_official,
            is_private=row.reader != "",
            description=row.description,
            example=facts.get("example"),
            run_count=facts.get("run_count"),
            versions=tuple(ListedVersion(*each) for each in facts.get("versions", ())),
        )

    def _is_fresh(self, row: ModelRecord) -> bool:
        if row.missing:
            return self._clock() < row.looked_up_at + MISSING_FOR
        is_version = ":" in row.name and not row.name.endswith(_LIST)
        return is_version or self._clock() < row.looked_up_at + LATEST_FOR

    async def _form(self, version: str) -> F | None:
        """The compiled schema of a version that the caller may know. None if it has none."""
        form = self._forms.get(version)
        if form is None:
            form = await self._archive.read(partial(self._read_form, version))
        if form is not None:
            self._remember(version, form)
        return form

    def _remember(self, version: str, form: F) -> None:
        self._forms[version] = form
        self._forms.move_to_end(version)
        if len(self._forms) > FORMS:
            self._forms.popitem(last=False)

    # Both run on another thread.

    def _read_form(self, version: str, queries: Queries) -> F | None:
        kept = queries.schema(version, simulated=self._simulated)
        document = None if kept is None else json.loads(zlib.decompress(kept.document))
        return None if document is None else self._compiled(document)

    def _packed(self, schema: PublishedSchema | None) -> tuple[bytes, F | None]:
        """A schema as the ledger keeps it, and its form."""
        form = None if schema is None else self._compiled(schema)
        return zlib.compress(json.dumps(schema).encode()), form

    # ── Look-ups

    async def _look_up(self, caller: Caller, name: str) -> Known[F]:
        """Look the model up, or wait for another look-up of it."""
        readers = readers_of(caller)
        for reader in chain([""], repeat(reader_of(caller))):
            known = await self._known(readers, name)
            if known is not None and (not known.is_stale or await self._has_failed(readers, name)):
                return known
            now = self._clock()
            claim = ClaimLookup(reader, name, self._simulated, now, now + LONGEST)
            if await self._ledger.claim(claim):
                return await self._claimed(caller, name, claim)
            await self._end_of_others(reader, name)
        raise AssertionError("the loop has no end")

    async def _claimed(self, caller: Caller, name: str, claim: ClaimLookup) -> Known[F]:
        """Look the model up for all that wait for this claim. If it is cancelled, they wait for its time."""
        try:
            known = await self._known(readers_of(caller), name)
            if known is None or known.is_stale:  # otherwise another look-up has ended just before the claim
                known = await self._asked(caller, name, known)
        except Exception:
            await self._ledger.claim(EndLookup(claim, claim.now))
            raise
        again_at = self._clock() + FAILED_FOR if known.is_stale else claim.now
        await self._ledger.claim(EndLookup(claim, again_at))  # in one transaction with the answer
        return known

    async def _asked(self, caller: Caller, name: str, earlier: Known[F] | None) -> Known[F]:
        """The answer of Replicate, which is written with the next claim, or the earlier one if there is none now."""
        try:
            about = await self._about(caller, name)
            if about is not None and name == f"{about.name}:{about.version}":  # that answer had it
                known = await self._known(readers_of(caller), name)
                if known is not None:
                    return known
            facts = await self._found(caller, name, about)
        except ServiceError as error:
            if earlier is None or not error.retryable or isinstance(error, LedgerDown):
                raise
            log.info("model_stale", model=name, reason=str(error))
            return earlier
        return await self._shown(await self._kept(caller, name, facts))

    async def _found(self, caller: Caller, name: str, about: Known[F] | None) -> ModelFacts | None:
        """The answer of Replicate. Only that about a model itself shows whether it is public and runs by its name."""
        if name.startswith(_DEPLOYMENTS):
            facts = await self._source.find_deployment(caller, name.removeprefix(_DEPLOYMENTS))
            if facts is not None and facts.release is not None:
                await self.facts(caller, ":".join(facts.release))  # for the schema
            return facts and replace(facts, is_private=True)
        model, _, version = name.partition(":")
        if not version:
            return await self._source.find_model(caller, name)
        if about is not None and about.is_missing:
            return None
        if name.endswith(_LIST):
            facts = ModelFacts(model, versions=await self._source.find_versions(caller, model) or ())
        else:
            facts = await self._source.find_version(caller, model, version)
        if about is None or about.is_stale:
            return facts and replace(facts, is_private=True)
        return facts and replace(facts, is_private=about.is_private, is_official=about.is_official)

    async def _about(self, caller: Caller, name: str) -> Known[F] | None:
        """The model of a version, or of a list of them. None if its answer cannot be read: the version may be
        readable."""
        model, colon, _ = name.partition(":")
        if not colon:
            return None
        try:
            return await self.facts(caller, model)
        except ServiceError as error:
            if error.retryable or isinstance(error, LedgerDown):
                raise
            return None

    async def _kept(self, caller: Caller, name: str, facts: ModelFacts | None) -> ModelRecord:
        """Write the answer to the ledger soon. Returns its record."""
        schema = None if facts is None else facts.schema
        document, form = await self._archive.read(lambda _: self._packed(schema))
        row = ModelRecord(
            reader=reader_of(caller), name=name, simulated=self._simulated, looked_up_at=self._clock()
        )
        row = replace(row, missing=True) if facts is None else with_facts(row, facts)
        # From here on without a pause, so that one transaction has all rows.
        if facts is None or facts.is_private:  # it may have been public
            self._rows.drop("", name)
            self._ledger.delete(ModelRecord, "", name, self._simulated)
        self._ledger.upsert(row)
        if facts is not None and facts.version is not None and not name.startswith(_DEPLOYMENTS):
            self._ledger.upsert(replace(row, name=f"{facts.name}:{facts.version}"))
            self._ledger.upsert(
                SchemaRecord(facts.version, self._simulated, facts.name, document, row.looked_up_at)
            )
            if form is not None:
                self._remember(facts.version, form)
        return row

    async def _end_of_others(self, reader: str, name: str) -> None:
        """Wait until no other look-up of this name for this reader is under way."""
        while await self._is_under_way(reader, name):  # noqa: ASYNC110 - it may be in another process
            await asyncio.sleep(PAUSE)

    async def _is_under_way(self, reader: str, name: str) -> bool:
        return any(
            not each.is_over and self._clock() < each.until for each in await self._others([reader], name)
        )

    async def _has_failed(self, readers: Sequence[str], name: str) -> bool:
        """Whether a look-up has failed just before."""
        return any(each.is_over and self._clock() < each.until for each in await self._others(readers, name))

    async def _others(self, readers: Sequence[str], name: str) -> Sequence[LookupRecord]:
        return await self._archive.read(
            lambda queries: queries.lookups(readers, name, simulated=self._simulated)
        )
