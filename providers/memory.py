"""A provider without a network: its predictions are in memory and end by the loop's clock.

It keeps every promise of a provider and charges nothing. Tests use it, and a service can be tried without an account.
"""

import asyncio
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from auth import Caller, Secret
from catalog.outputs import Url
from catalog.references import Upload
from concurrency import Lease
from errors import UpstreamError
from loop_thread import finish
from providers import (
    NO_SECRETS,
    AccountSource,
    Created,
    CreationRegistry,
    Limits,
    Measures,
    OnLate,
    OnLook,
    Prediction,
    ProgressSource,
    Provider,
    TryAgain,
    UncertainCreation,
    UpstreamState,
)
from providers.fingerprints import fingerprint
from providers.models import ListedVersion, ModelFacts, ModelSource
from providers.pushes import PushedResult, PushReceiver, Untrusted
from providers.server_tokens import ServerTokens

SUCCEEDED = Prediction("", "succeeded", [Url("https://memory.invalid/picture.png")], started=True)


@dataclass(frozen=True, slots=True)
class _Made:
    reference: str
    now: Prediction
    """The prediction until it is over."""
    starts_at: float
    over: asyncio.Future[Prediction]


class MemoryProvider(Provider, PushReceiver, CreationRegistry, ProgressSource, AccountSource, ModelSource):
    """Answers creations after `answer_after` seconds, starts predictions `starts_after` seconds later, and ends them
    `ends_after` seconds after that. `models` are all that can be looked up: models with their latest versions, single
    versions, and deployments.

    `outcomes` are those of the creations, in order: an exception to raise, the prediction at its end, or None for a
    prediction that never ends. Further creations succeed. A creation is only sent if `may_send` returns True.
    """

    limits = Limits(answer_timeout=30, clock_skew=0)
    uploads_early = True
    account_shared = False
    clock_skew: float | None = 0.0
    upstream = UpstreamState()
    measured = Measures(0.0)

    def __init__(
        self,
        *outcomes: Prediction | Exception | None,
        answer_after: float = 0.25,
        starts_after: float = 0.0,
        ends_after: float = 1.0,
        may_send: Callable[[], bool] = lambda: True,
        models: Iterable[ModelFacts] = (),
    ) -> None:
        self.outcomes = list(outcomes)
        self.tokens = ServerTokens(None)
        self._answer_after = answer_after
        self.starts_after = starts_after
        self._ends_after = ends_after
        self._may_send = may_send
        self.models = list(models)
        self.looked_up: list[str] = []
        """What was looked up or searched for, in order: targets and queries."""
        self.made: dict[str, _Made] = {}
        self.sent: list[tuple[float, str]] = []
        """When each creation was sent, by the loop's clock, and the caller's id."""
        self.cancelled: list[str] = []

    async def upload(self, caller: Caller, upload: Upload) -> str:
        await asyncio.sleep(self._answer_after)
        return f"https://memory.invalid/{caller.id}/{id(upload)}"

    def content_of(self, sent: Mapping[str, Any]) -> str:
        return fingerprint(sent)

    async def create(
        self,
        caller: Caller,
        model: str,  # noqa: ARG002
        sent: Mapping[str, Any],  # noqa: ARG002
        *,
        content: str,  # noqa: ARG002
        lease: Lease,
        cancel_after: float,  # noqa: ARG002
        reference: str,
        callback: str | None = None,  # noqa: ARG002
        on_late: OnLate | None = None,  # noqa: ARG002
        secrets: Mapping[str, str] = NO_SECRETS,  # noqa: ARG002
    ) -> Created:
        if not self._may_send():
            raise TryAgain.as_held_back()
        lease.sent()
        self.sent.append((asyncio.get_running_loop().time(), caller.id))
        outcome = self.outcomes.pop(0) if self.outcomes else SUCCEEDED
        prediction = Prediction(f"p{len(self.sent)}", "starting")
        try:
            await finish(asyncio.sleep(self._answer_after))
        finally:
            lease.answered()
        if isinstance(outcome, Exception):
            raise outcome
        self.start(prediction, outcome, reference=reference)
        return Created(prediction)

    def start(self, prediction: Prediction, end: Prediction | None, *, reference: str) -> None:
        """Add a prediction with this end, as if it had just been created."""
        loop = asyncio.get_running_loop()
        starts_at = loop.time() + self.starts_after
        made = self.made[prediction.id] = _Made(reference, prediction, starts_at, loop.create_future())
        if end is not None:
            loop.call_at(starts_at + self._ends_after, _end, made, replace(end, id=prediction.id))

    async def wait(
        self,
        caller: Caller,  # noqa: ARG002
        prediction: Prediction,
        *,
        model: str,  # noqa: ARG002
        on_look: OnLook | None = None,
        start_by: float | None = None,
    ) -> Prediction:
        if prediction.is_over:
            return prediction
        if (made := self.made.get(prediction.id)) is None:
            raise UpstreamError
        looks = self._looks(made, on_look, start_by, prediction.age)
        try:
            return replace(await asyncio.shield(made.over), form=prediction.form)
        finally:
            for look in looks:
                look.cancel()

    def _looks(
        self, made: _Made, on_look: OnLook | None, start_by: float | None, age: float
    ) -> list[asyncio.TimerHandle]:
        """It is looked at when it starts, and at the age at which it must have started."""
        if on_look is None:
            return []
        loop = asyncio.get_running_loop()

        def look() -> None:
            ran = loop.time() - made.starts_at
            on_look(ran if ran >= 0 else None)

        bound = [] if start_by is None else [loop.time() - age + start_by]
        return [loop.call_at(max(at, loop.time()), look) for at in (made.starts_at, *bound)]

    async def cancel(self, caller: Caller, prediction: Prediction) -> Prediction | None:  # noqa: ARG002
        await asyncio.sleep(self._answer_after)
        self.cancelled.append(prediction.id)
        if (made := self.made.get(prediction.id)) is None:
            return None
        has_started = asyncio.get_running_loop().time() >= made.starts_at
        _end(made, replace(made.now, status="canceled", started=has_started))
        return replace(made.over.result(), form=prediction.form)

    async def recover(
        self,
        caller: Caller,  # noqa: ARG002
        model: str,  # noqa: ARG002
        *,
        content: str,  # noqa: ARG002
        since: float,  # noqa: ARG002
        reference: str,
        skew: float | None = None,  # noqa: ARG002
        on_late: OnLate | None = None,  # noqa: ARG002
        hidden: Collection[str] = (),  # noqa: ARG002
    ) -> Created:
        for made in self.made.values():
            if made.reference == reference:
                return Created(made.now)
        raise TryAgain(UpstreamError("The prediction was not created."))

    async def aclose(self) -> None: ...

    async def find_model(self, caller: Caller, name: str) -> ModelFacts | None:  # noqa: ARG002
        self.looked_up.append(name)
        return next((each for each in self.models if each.name == name), None)

    async def find_version(self, caller: Caller, name: str, version: str) -> ModelFacts | None:  # noqa: ARG002
        self.looked_up.append(f"{name}:{version}")
        found = (each for each in self.models if (each.name, each.version) == (name, version))
        return next((ModelFacts(name, version, each.schema) for each in found), None)

    async def find_deployment(self, caller: Caller, name: str) -> ModelFacts | None:
        return await self.find_model(caller, f"deployments/{name}")

    async def find_versions(self, caller: Caller, name: str) -> list[ListedVersion] | None:  # noqa: ARG002
        self.looked_up.append(f"{name}:versions")
        found = [each for each in self.models if each.name == name and not each.is_official]
        return [ListedVersion(each.version) for each in found if each.version] or None

    async def search_models(self, caller: Caller, query: str) -> list[ModelFacts]:  # noqa: ARG002
        self.looked_up.append(query)
        found = {each.name: each for each in self.models if query.lower() in each.name.lower()}
        return [replace(each, schema=None, example=None) for each in found.values() if not each.release]

    async def account_of(self, caller: Caller) -> str | None:
        return caller.id

    async def webhook_secret(self, caller: Caller) -> Secret:
        return Secret(f"secret of {caller.id}")

    def read_push(
        self,
        headers: Mapping[str, str],
        body: bytes,
        secret: str,
        caller: Caller | None = None,  # noqa: ARG002
    ) -> PushedResult:
        """`body` is JSON: `{"id", "status", "output"}`; the header `webhook-signature` is the secret."""
        if headers.get("webhook-signature") != secret:
            raise Untrusted("The message does not have the secret.")
        sent = json.loads(body)
        return PushedResult(Prediction(sent["id"], sent["status"], [*map(Url, sent["output"])]))

    def receive_push(self, reference: str, pushed: PushedResult) -> None:
        made = self.made.get(pushed.prediction.id)
        if made is not None and made.reference == reference:
            _end(made, pushed.prediction)

    def receive_late(self, reference: str, pushed: PushedResult) -> bool:  # noqa: ARG002
        """Always False: no creation is lost here."""
        return False

    def register_uncertain(self, creation: UncertainCreation) -> None:
        """Do nothing: `recover` finds a creation by its reference."""

    def learn(self, measured: Measures) -> None:
        """Its own are right."""

    def register_known(self, ids: Iterable[str]) -> None:
        """Do nothing, for the same reason."""

    def follow(
        self,
        prediction_id: str,
        listener: Callable[[Prediction], object],
        *,
        eager: bool = True,  # noqa: ARG002 - all are
    ) -> Callable[[], None]:
        made = self.made.get(prediction_id)
        if made is None:
            return lambda: None

        async def show() -> None:
            clock = asyncio.get_running_loop().time
            begun = clock()
            while not made.over.done():
                done = 100 * min(1.0, (clock() - begun) / self._ends_after)
                listener(replace(made.now, status="processing", progress=done))
                await asyncio.sleep(1)

        showing = asyncio.create_task(show())

        def leave() -> None:
            showing.cancel()

        return leave


def _end(made: _Made, end: Prediction) -> None:
    if not made.over.done():
        made.over.set_result(end)
