"""Answers calls: finds key, project and model, admits, and starts the course of the answer.

It knows no HTTP server. A call is an `ApiRequest`, its answer a `Reply`. The parts of a reply come at
their times.
"""

import json
import random
from dataclasses import replace
from datetime import datetime
from typing import Any

from simulator.gemini import answers, listing, marks, models, refusals, replies, requests
from simulator.gemini.books import Bill, Books, GeminiCounts
from simulator.gemini.course import Call, Course, Cut
from simulator.gemini.dates import Time
from simulator.gemini.faults import Fault, Faults
from simulator.gemini.models import MODELS, TextModel
from simulator.gemini.options import GeminiOptions
from simulator.gemini.projects import Project, Projects
from simulator.gemini.refusals import Refused
from simulator.gemini.replies import JSON, ApiRequest, Parts, Reply
from simulator.windows import Clock

_METHODS = {"generateContent": "generate", "streamGenerateContent": "stream", "countTokens": "count"}


class Gemini:
    """One simulated Gemini. It belongs to one event loop.

    Args:
        options: The settings.
        clock: Monotonic nanoseconds.
        seed: Makes answers and their ids repeatable.
    """

    def __init__(self, options: GeminiOptions, *, clock: Clock, seed: int | None = None) -> None:
        self._begin, self._seed = options, seed
        self.options = options
        self.time = Time(clock, options.date)
        self.books = Books(options.keep)
        self.faults = Faults()
        self.projects = Projects(options)
        self._chance = random.Random(seed)  # noqa: S311 - filler, not secrets

    def reset(self) -> None:
        """Return to the state of the start. Calls in flight go on."""
        self.options = self._begin
        self.time.set(self.options.date)
        self.books.reset()
        self.faults.clear()
        self.projects = Projects(self.options)
        self._chance.seed(self._seed)

    def configure(self, /, **changes: Any) -> None:
        """Change settings: those of `GeminiOptions` but `keep`. Limits become those of every project.

        Raises:
            ValueError: If a change is unknown or invalid. Then no setting is changed.
        """
        if "date" in changes and isinstance(changes["date"], str):
            changes["date"] = datetime.fromisoformat(changes["date"])
        unknown = changes.keys() - (set(GeminiOptions.__slots__) - {"keep"})
        if unknown:
            raise ValueError(f"no such settings: {', '.join(sorted(unknown))}")
        self.options = replace(self.options, **changes)
        self.projects.change(self.options, changes.keys())
        if "date" in changes:
            self.time.set(changes["date"])

    def counts(self) -> GeminiCounts:
        """The counts at this moment."""
        books = self.books
        lanes = tuple(each for project in self.projects for each in project.lane_counts())
        return GeminiCounts(
            requests=dict(books.requests),
            refusals=dict(books.refusals),
            limits_hit=dict(books.limits_hit),
            outcomes=dict(books.outcomes),
            finish_reasons=dict(books.finish_reasons),
            in_flight=sum(books.in_flight.values()),
            in_flight_peak=books.in_flight_peak,
            lanes=lanes,
            requests_peak_per_minute=max((each.requests_peak_per_minute for each in lanes), default=0),
            tokens_peak_per_minute=max((each.tokens_peak_per_minute for each in lanes), default=0),
            requests_peak_per_day=max((each.requests_peak_per_day for each in lanes), default=0),
            micro_usd_peak_per_10_minutes=max((each.spent.peak for each in self.projects), default=0),
            keys_in_urls=books.keys_in_urls,
            tokens=dict(books.tokens),
            billed_micro_usd=sum(books.by_model.values()),
            billed_by_model=dict(books.by_model),
        )

    def bills(self) -> list[Bill]:
        """The kept bills, oldest first."""
        return list(self.books.bills)

    async def answer(self, request: ApiRequest) -> Reply:
        """The answer to a request.

        Raises:
            Cut: If the connection is to be reset without an answer.
        """
        try:
            return await self._answer(request)
        except Refused as refused:
            self.books.refusals[refused.code] += 1
            return replies.of_refusal(request, refused)
        except RecursionError:
            self.books.refusals[400] += 1
            return replies.of_refusal(request, refusals.of(400))

    async def _answer(self, request: ApiRequest) -> Reply:
        name, colon, method = request.path.removeprefix(f"{listing.ROOT}/").rpartition(":")
        method = method if colon else ""
        kind = _METHODS.get(method, "unknown") if request.method == "POST" else "unknown"
        if request.method == "GET" and request.path.startswith(listing.ROOT):
            kind = "models"
        self.books.requests[kind] += 1
        key = self._key(request)
        project = self.projects.of(key)
        fault = self.faults.take(kind, key=key, model=name)
        if fault is not None and fault.status is not None:
            return self._fixed(fault)
        ordered = marks.parse(fault.marks or "") if fault is not None else {}
        match kind:
            case "models":
                self._refuse(ordered, name)
                return listing.answer(request, self.time.now())
            case "count":
                self._refuse(ordered, name)
                return self._count(name, request)
            case "generate" | "stream":
                return await self._generate(kind, name, request, project, ordered)
        raise refusals.unknown_model(name, method) if method else refusals.of(404)

    def _key(self, request: ApiRequest) -> str:
        header, query = request.headers.get("x-goog-api-key"), request.query.get("key")
        authorization = request.headers.get("authorization")
        self.books.keys_in_urls += query is not None
        found = [each for each in (header, query, authorization) if each]
        if len(found) > 1:
            raise refusals.key("two")
        if authorization:
            raise refusals.key("refused")
        if not found:
            raise refusals.key("missing")
        return found[0]

    def _fixed(self, fault: Fault) -> Reply:
        status = fault.status or 500
        if status >= 400:
            self.books.refusals[status] += 1
        body = fault.body if isinstance(fault.body, str) else json.dumps(fault.body)
        return Reply(
            status=status, headers={"Content-Type": JSON} | dict(fault.headers or {}), body=body.encode()
        )

    def _refuse(self, found: marks.Marks, model: str) -> None:
        if "reset" in found or "lost" in found:
            raise Cut
        refused = marks.refusal(found, model=model, to_midnight=self.time.to_midnight())
        if refused is not None:
            raise refused

    def _model(self, name: str, method: str) -> TextModel:
        found = models.find(name, self.time.now())
        if found is None:
            raise refusals.unknown_model(name, method)
        return found

    def _count(self, name: str, request: ApiRequest) -> Reply:
        self._model(name, "countTokens")
        counted = requests.count(_body(request))
        details = [{"modality": kind, "tokenCount": amount} for kind, amount in counted.items() if amount]
        return replies.of_json({"totalTokens": sum(counted.values()), "promptTokensDetails": details})

    async def _generate(
        self, kind: str, name: str, request: ApiRequest, project: Project, ordered: marks.Marks
    ) -> Reply:
        model = self._model(name, "generateContent" if kind == "generate" else "streamGenerateContent")
        checked = requests.parse(_body(request), model)
        found = {**marks.parse(checked.text), **ordered}
        if "once" in found and project.prompts.is_first(checked.text):
            found |= marks.parse(f"[[{found['once']}]]")
        if "reset" in found:
            raise Cut
        self._admit(project, model.name, checked.prompt_tokens)
        self._refuse({name: each for name, each in found.items() if name != "lost"}, model.name)
        deadline = _seconds(request.headers.get("x-server-timeout"))
        call = Call(
            project=project, kind=kind, model=name, marks=found, deadline=deadline, arrived=self.time.now()
        )
        course = self._course(call, checked)
        if kind == "generate":
            return replies.of_json(await course.unary())
        as_events = request.query.get("alt") == "sse"
        parts, head = Parts(course, as_events=as_events), course.head_seconds()
        if head is None:
            await parts.begin()
        kinds = {"Content-Type": replies.EVENTS if as_events else JSON}
        return Reply(headers=replies.HEADERS | kinds, parts=parts, head=head)

    def _admit(self, project: Project, model: str, tokens: int) -> None:
        try:
            project.admit(model, tokens, now=self.time.clock(), at=self.time.now())
        except Refused as refused:
            self.books.limits_hit[refused.limit] += 1
            raise

    def _course(self, call: Call, checked: requests.CheckedRequest) -> Course:
        seed = self._chance.randrange(2**31) if checked.seed is None else checked.seed
        names = answers.names(call.marks.get("model") or checked.model.name, self._chance)
        answer = answers.plan(checked, call.marks, names, options=self.options, seed=seed)
        self.books.begin(call.project.name)
        return Course(
            call=call,
            answer=answer,
            options=self.options,
            books=self.books,
            time=self.time,
            version=names.version if names.version in MODELS else checked.model.name,
            response_id=names.response_id,
        )


def _body(request: ApiRequest) -> Any:
    try:
        return json.loads(request.body)
    except ValueError as reason:
        said = f"Invalid JSON payload received. {reason}"
        raise refusals.bad_fields([("", said)]) from reason


def _seconds(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None
