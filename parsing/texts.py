"""Parses the bodies of calls to text models: of single calls, and of batches.

The routes have names of fields of their own. They become the inputs of a text model and the fields of this service,
which are then parsed as those of `POST /generate` and `/generate-batch` are. Problems have the names of the route.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from auth import CALL_CREDENTIAL
from catalog.texts.inputs import TASK
from catalog.texts.runnable import MAX_OUTPUT
from contract.tasks import CHAT, STORY, STRUCTURED
from errors import InvalidRequest, Problem
from parsing.batch import parse_batch
from parsing.context import ParseContext
from parsing.generation import parse_generation
from parsing.shapes import BatchFields, BatchRequest, GenerationRequest
from parsing.validation import not_a_field, refuse_if_any, unusable_reasons

CREDENTIALS: Final = "credentials"

_INPUTS: Final = (
    "system_prompt", "images", "temperature", "top_p", MAX_OUTPUT, "thinking_level", "seed", "stop", "on_lost",
)  # fmt: skip
_OWN: Final = ("timeout", "webhook", "metadata", "max_cost_usd", "fallback")
_SINGLE: Final = ("dry_run", "external_semaphore_id")
_ITEM: Final = ("idempotency_key",)

_MOST_PROBLEMS: Final = 100


@dataclass(frozen=True, slots=True)
class TextRoute:
    """One route: its `task`, its default model, and the tokens that a call may put out by default. `names` are those of
    the caller for inputs that the models call otherwise, and `required` those that each call needs."""

    task: str
    model: str
    max_output_tokens: int
    inputs: tuple[str, ...]
    names: Mapping[str, str]
    required: tuple[str, ...]

    @classmethod
    def of(cls, task: str, model: str, max_output_tokens: int) -> "TextRoute":
        names = {"model": "model_name"} | ({} if task == CHAT else {"user_content": "prompt"})
        more = {
            CHAT: ("prompt", "messages"),
            STRUCTURED: ("user_content", "json_schema", "repair"),
            STORY: ("user_content", "voice_id_list", "strict", "repair"),
        }[task]
        required = {
            CHAT: (),
            STRUCTURED: ("user_content", "system_prompt", "json_schema"),
            STORY: ("user_content", "system_prompt"),
        }[task]
        return cls(task, model, max_output_tokens, (*more, *_INPUTS), names, required)

    def translated(self, body: Any, *, further: Iterable[str]) -> dict[str, Any]:
        """The body of `POST /generate` for one call. Raises InvalidRequest, with all fields that do not belong here."""
        refuse_if_any(unusable_reasons("body", body))
        fields = {name: value for name, value in body.items() if value is not None}
        taken = ("model", *self.inputs, *_OWN, *further)
        problems = [
            Problem(name, not_a_field(name, taken), value)
            for name, value in fields.items()
            if name not in taken
        ]
        problems += [Problem(name, "is required") for name in self.required if name not in fields]
        refuse_if_any(problems)
        found = {self.names.get(name, name): value for name, value in fields.items()}
        return {"model_name": self.model, MAX_OUTPUT: self.max_output_tokens, **found, TASK: self.task}

    def _named(self, problem: Problem) -> Problem:
        """The same problem, with the caller's name of its field."""
        where, dot, field = problem.field.rpartition(".")
        back = {ours: theirs for theirs, ours in self.names.items()}
        return replace(problem, field=f"{where}{dot}{back.get(field, field)}")

    def single(self, body: Any) -> dict[str, Any]:
        """The body of `POST /generate` for a call. Raises InvalidRequest."""
        return self.translated(body, further=_SINGLE)

    def batch(self, body: Any) -> dict[str, Any]:
        """The body of `POST /generate-batch` for a body with `requests`. Raises InvalidRequest."""
        refuse_if_any(unusable_reasons("body", body))
        fields = {name: value for name, value in body.items() if value is not None}
        taken = ("requests", *BatchFields.model_fields)
        problems = [
            Problem(name, not_a_field(name, taken), value)
            for name, value in fields.items()
            if name not in taken
        ]
        requests = fields.get("requests")
        if not isinstance(requests, list):
            problems.append(Problem("requests", "must be a list" if "requests" in fields else "is required"))
        sent = []
        for index, each in enumerate(requests if isinstance(requests, list) else ()):
            try:
                sent.append(self.translated(each, further=_ITEM))
            except InvalidRequest as invalid:
                problems += [problem.within(f"requests[{index}]") for problem in invalid.problems]
            if len(problems) > _MOST_PROBLEMS:
                break
        refuse_if_any(problems)
        return {**fields, "requests": sent}

    def parse(self, sent: Any, context: ParseContext) -> GenerationRequest:
        """The call of a translated body. Raises InvalidRequest."""
        try:
            return parse_generation(sent, context)
        except InvalidRequest as invalid:
            raise InvalidRequest(map(self._named, invalid.problems)) from None

    def parse_batch(self, sent: Any, context: ParseContext) -> BatchRequest:
        """The calls of a translated body with `requests`. Raises InvalidRequest."""
        try:
            return parse_batch(sent, context)
        except InvalidRequest as invalid:
            raise InvalidRequest(map(self._named, invalid.problems)) from None


def credential_of(body: Any) -> tuple[Any, str | None]:
    """The body without its credentials, and the key among them. Raises InvalidRequest if they have another form."""
    if not isinstance(body, dict) or CREDENTIALS not in body:
        return body, None
    rest = {name: value for name, value in body.items() if name != CREDENTIALS}
    given = body[CREDENTIALS]
    if given is None:
        return rest, None
    key = given.get(CALL_CREDENTIAL) if isinstance(given, dict) else None
    if not isinstance(given, dict) or given.keys() - {CALL_CREDENTIAL} or not isinstance(key, str | None):
        raise InvalidRequest([Problem(CREDENTIALS, f"must be an object with {CALL_CREDENTIAL}")])
    return rest, key
