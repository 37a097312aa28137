"""Parses the bodies of calls to text models: of single calls, and of batches.

The routes have names of fields of their own. They become the inputs of a text model and the fields of this service,
which are then parsed as those of `POST /generate` and `/generate-batch` are. Problems have the names of the route.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from auth import CALL_CREDENTIAL
from catalog.registry import Registry
from catalog.texts.inputs import TASK
from catalog.texts.runnable import MAX_OUTPUT
from contract.tasks import CHAT, STORY, STRUCTURED
from errors import InvalidRequest, Problem
from errors.content import ContentRefused
from parsing.batch import parse_batch
from parsing.context import ParseContext
from parsing.generation import parse_generation
from parsing.multipart_form import FormNames
from parsing.shapes import BatchFields, BatchRequest, GenerationRequest
from parsing.validation import not_a_field, refuse, refuse_if_any, unusable_reasons

Parsed = TypeVar("Parsed")

CREDENTIALS: Final = "credentials"

_INPUTS: Final = (
    "system_prompt", "images", "temperature", "top_p", MAX_OUTPUT, "thinking_level", "seed", "stop", "on_lost",
)  # fmt: skip
_OWN: Final = ("timeout", "webhook", "metadata", "max_cost_usd", "fallback")
_SINGLE: Final = ("dry_run", "external_semaphore_id")
_ITEM: Final = ("idempotency_key",)

_MOST_PROBLEMS: Final = 100

_REQUIRED: Final = "is required"


def form_names(texts: Registry) -> FormNames:
    """What the fields of a form hold on these routes."""
    return FormNames(texts=frozenset({"user_content", "model"}), registry=texts)


@dataclass(frozen=True, slots=True)
class Translated:
    """A body of `POST /generate`, or of `POST /generate-batch`, and the problems that were found on the way there."""

    body: dict[str, Any]
    problems: Sequence[Problem] = ()


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

    def single(self, body: Any) -> Translated:
        """The body of `POST /generate` for a call. Raises InvalidRequest if it is no object."""
        refuse_if_any(unusable_reasons("body", body))
        return self._translated(body, further=_SINGLE)

    def batch(self, body: Any) -> Translated:
        """The body of `POST /generate-batch` for a body with `requests`. Raises InvalidRequest if it has no list of
        them."""
        refuse_if_any(unusable_reasons("body", body))
        fields, problems = _taken(body, ("requests", *BatchFields.model_fields))
        requests = fields.get("requests")
        if not isinstance(requests, list):
            why = "must be a list" if "requests" in fields else _REQUIRED
            raise InvalidRequest([*problems, Problem("requests", why)])
        sent: list[Any] = []
        for index, each in enumerate(requests):
            if not isinstance(each, dict) or len(problems) > _MOST_PROBLEMS:
                sent.append(each)
                continue
            found = self._translated(each, further=_ITEM)
            sent.append(found.body)
            problems += [problem.within(f"requests[{index}]") for problem in found.problems]
        return Translated({**fields, "requests": sent}, problems)

    def parse(self, sent: Any, context: ParseContext, problems: Sequence[Problem] = ()) -> GenerationRequest:
        """The call of a translated body, which had these problems. Raises InvalidRequest."""
        return self._parsed(parse_generation, sent, context, problems)

    def parse_batch(self, sent: Any, context: ParseContext, problems: Sequence[Problem] = ()) -> BatchRequest:
        """The calls of a translated body with `requests`, which had these problems. Raises InvalidRequest."""
        return self._parsed(parse_batch, sent, context, problems)

    def _parsed(
        self,
        parse: Callable[[Any, ParseContext], Parsed],
        sent: Any,
        context: ParseContext,
        problems: Sequence[Problem],
    ) -> Parsed:
        try:
            found = parse(sent, context)
        except InvalidRequest as invalid:
            refuse(_all([*problems, *map(self._named, invalid.problems)]))
        except ContentRefused as refused:
            refuse_if_any(list(problems))
            raise refused.about(map(self._named, refused.problems)) from None
        refuse_if_any(list(problems))
        return found

    def _translated(self, body: Mapping[str, Any], *, further: Iterable[str]) -> Translated:
        """The body of `POST /generate` for one call. What does not belong here is left out, and is a problem."""
        fields, problems = _taken(body, ("model", *self.inputs, *_OWN, *further))
        problems += [Problem(name, _REQUIRED) for name in self.required if name not in fields]
        found = {self.names.get(name, name): value for name, value in fields.items()}
        return Translated(
            {"model_name": self.model, MAX_OUTPUT: self.max_output_tokens, **found, TASK: self.task}, problems
        )

    def _named(self, problem: Problem) -> Problem:
        """The same problem, with the caller's name of its field."""
        where, dot, field = problem.field.rpartition(".")
        back = {ours: theirs for theirs, ours in self.names.items()}
        return replace(problem, field=f"{where}{dot}{back.get(field, field)}")


def _taken(body: Mapping[str, Any], taken: Sequence[str]) -> tuple[dict[str, Any], list[Problem]]:
    """The fields that a route takes and that are not null, and the problems of the others."""
    fields = {name: value for name, value in body.items() if value is not None}
    problems = [
        Problem(name, not_a_field(name, taken), value) for name, value in fields.items() if name not in taken
    ]
    return {name: value for name, value in fields.items() if name in taken}, problems


def _all(problems: Sequence[Problem]) -> list[Problem]:
    """The problems, each once. A field that is there but wrong is not missing, too."""
    wrong = {each.field for each in problems if each.message != _REQUIRED}
    found: dict[tuple[str, str], Problem] = {}
    for each in problems:
        if each.message != _REQUIRED or each.field not in wrong:
            found.setdefault((each.field, each.message), each)
    return list(found.values())


def without_credentials(body: Any) -> Any:
    """The body without its credentials."""
    if not isinstance(body, dict):
        return body
    return {name: value for name, value in body.items() if name != CREDENTIALS}


def credential_in(body: Any) -> str | None:
    """The key among the credentials of a body. Raises InvalidRequest if they have another form."""
    credentials = body.get(CREDENTIALS) if isinstance(body, dict) else None
    if credentials is None:
        return None
    key = credentials.get(CALL_CREDENTIAL) if isinstance(credentials, dict) else None
    is_known = isinstance(credentials, dict) and credentials.keys() <= {CALL_CREDENTIAL}
    if not is_known or not isinstance(key, str | None):
        raise InvalidRequest([Problem(CREDENTIALS, f"must be an object with {CALL_CREDENTIAL}")])
    return key
