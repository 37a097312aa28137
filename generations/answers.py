"""Reads the answer to a call for its task: a chat, structured output or a story."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from catalog.texts.inputs import TASK
from catalog.texts.story import story_warnings
from catalog.texts.validation import Answers
from contract.tasks import CHAT, STORY, TRUNCATED
from errors import Problem, ServiceError
from errors.calls import OutputInvalid, OutputTruncated
from media.formats import Kind
from providers.call_inputs import schema_of
from providers.call_outcomes import failure_of, outcome_of
from providers.calls import CallAnswer


@dataclass(frozen=True, slots=True)
class Reading:
    """The output of an answer, or the `error` for which it has none."""

    output: Any = None
    kind: Kind = "text"
    warnings: tuple[str, ...] = ()
    error: ServiceError | None = None

    @property
    def may_repair(self) -> bool:
        """Whether another attempt may succeed, with this error in its prompt."""
        return isinstance(self.error, OutputInvalid | OutputTruncated)


def read(answer: CallAnswer, inputs: Mapping[str, Any]) -> Reading:
    """The output of an answer to a call with these inputs."""
    task = inputs.get(TASK, CHAT)
    if (failed := failure_of(answer, takes_truncated=task == CHAT)) is not None:
        return Reading(error=failed)
    if outcome_of(answer).kind == "truncated":
        return Reading(answer.text, warnings=(TRUNCATED,))
    schema = schema_of(inputs)
    if task == CHAT and schema is None:
        return Reading(answer.text)
    found = Answers(schema).read(answer.text)
    if not found.is_valid:
        return Reading(error=OutputInvalid([Problem(each.path, each.message) for each in found.violations]))
    if task == CHAT:
        return Reading(answer.text)
    warnings = story_warnings(found.value, inputs.get("voice_id_list") or ()) if task == STORY else ()
    if warnings and inputs.get("strict"):
        return Reading(error=OutputInvalid([Problem(each.path, each.message) for each in warnings]))
    return Reading(found.value, "data", tuple(f"{each.path}: {each.message}" for each in warnings))
