"""Generations as predictions of Replicate's API.

The output has the shape that the model returned: one value, a list, an object, or text in pieces. Its files are those
that this service keeps, under addresses of its own. The official client makes a file of each text in an output that
begins with `https:`, and sends its token there. So no such text leaves this door but the address of a kept file: any
other gets a space in front.

A generation that came by another way has no output in Replicate's shape on record. Its outputs are one value if there
is one, and else a list.

Facts: recorded answers, Replicate's OpenAPI document, and the source of the official client at 1.0.7.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from catalog.targets import Target, is_version
from contract.door_facts import KEPT, LARGE, LARGE_TEXT, DoorFacts, facts_of
from doors import REPLICATE_ROOT
from doors.replicate import states
from files.names import stored_name
from ledger.records import GenerationRecord

Body = states.Body

Link = Callable[[str], str | None]
"""Returns what stands for a kept file in an output, by the name in its link; None if it is not kept any more."""

Content = Callable[[str], bytes | None]
"""Returns the content of a kept file, by the name in its link; None if it is not kept any more."""

HIDDEN: Final = "hidden"
"""The id of the only version of an official model, as Replicate shows it."""

_UNAVAILABLE: Final = "The prediction succeeded, but its output is not kept by this service."


def prediction(record: GenerationRecord, address: str, *, link: Link, content: Content) -> Body:
    """A prediction in any state. `address` is the base URL under which the caller reaches this service."""
    facts = facts_of(record)
    output = _output(record, facts, link, content)
    is_lost = record.succeeded and output is None
    here = f"{address}{REPLICATE_ROOT}/predictions/{record.id}"
    body: Body = {
        "id": record.id,
        **_what_runs(record),
        "input": facts.input if facts else ({"prompt": record.prompt} if record.prompt else {}),
        "logs": "",
        "output": output,
        "error": f"{_UNAVAILABLE} {record.files_error or ''}".strip() if is_lost else states.error(record),
        "data_removed": is_lost,
        "status": "failed" if is_lost else states.status(record),
        **states.times(record),
        "urls": {"get": here, "cancel": f"{here}/cancel"},
        "source": "api",
    }
    if facts and facts.deadline is not None:
        body["deadline"] = states.timestamp(facts.deadline)
    if facts and facts.webhook is not None:
        body["webhook"] = facts.webhook
    return body


def created(record: GenerationRecord, address: str, *, link: Link, content: Content) -> Body:
    """The same in the answer to its creation. The official client takes any other status than `starting` for an end,
    so one that has not ended is starting."""
    body = prediction(record, address, link=link, content=content)
    return body if record.has_ended else {**body, "status": "starting"}


def as_starting(record: GenerationRecord, address: str) -> Body:
    """A prediction as it was when it began, so that its caller looks for it again."""
    return created(
        replace(record, state="queued", ended_at=None), address, link=lambda _: None, content=lambda _: None
    )


def listed(record: GenerationRecord, address: str) -> Body:
    """A prediction in a list, without its logs and with links to its files."""
    body = prediction(record, address, link=links(record, address), content=lambda _: None)
    return {name: value for name, value in body.items() if name != "logs"}


def pushed(record: GenerationRecord, address: str) -> Body:
    """A prediction as the body of a webhook, with links to its files."""
    return prediction(record, address, link=links(record, address), content=lambda _: None)


def links(record: GenerationRecord, address: str) -> Link:
    """The addresses of the kept files of a generation."""
    return lambda name: name if name.startswith("data:") else f"{address}/files/{record.id}/{name}"


def _what_runs(record: GenerationRecord) -> Body:
    target = Target.parse(record.model)
    if is_version(record.model):  # the name of the model is not known
        return {"model": record.model, "version": record.model}
    version = record.version or target.version or HIDDEN
    if target.deployment is None:
        return {"model": target.name, "version": version}
    return {"model": target.deployment, "version": version, "deployment": target.deployment}


# ── Outputs


def _output(record: GenerationRecord, facts: DoorFacts | None, link: Link, content: Content) -> Any:
    """The output, None if there is none."""
    names = {stored_name(record.id, name).partition(".")[0]: name for name in record.files}
    if not record.succeeded:
        return None
    if facts is None:
        files = [found for name in record.files if (found := link(name)) is not None]
        values = files or [_guarded(each) for each in record.outputs]
        return values[0] if len(values) == 1 else values or None
    return _shown(_loaded(facts.output, names, content), names, link)


def _loaded(output: Any, names: Mapping[str, str], content: Content) -> Any:
    """The output with the content of the file in its place, if it was too large for the ledger."""
    if isinstance(output, list) and len(output) == 1 and _is_alone(output[0], LARGE_TEXT):
        return [_loaded(output[0], names, content)]
    kind = next((each for each in (LARGE, LARGE_TEXT) if _is_alone(output, each)), None)
    if kind is None:
        return output
    name = names.get(str(output[kind]))
    found = None if name is None else content(name)
    if found is None:
        return {KEPT: output[kind]}
    return json.loads(found) if kind == LARGE else found.decode(errors="replace")


def _shown(value: Any, names: Mapping[str, str], link: Link) -> Any:
    """The output for the caller. A list leaves out files that are not kept."""
    if _is_alone(value, KEPT):
        name = names.get(str(value[KEPT]))
        return None if name is None else link(name)
    if isinstance(value, list):
        shown = [_shown(each, names, link) for each in value]
        kept = [
            each
            for each, before in zip(shown, value, strict=True)
            if each is not None or not _is_alone(before, KEPT)
        ]
        return kept if kept or not value else None
    if isinstance(value, dict):
        return {name: _shown(each, names, link) for name, each in value.items()}
    return _guarded(value)


def _guarded(value: Any) -> Any:
    """A text that no client takes for an address, and any other JSON with such texts."""
    if isinstance(value, list | tuple):
        return [_guarded(each) for each in value]
    if isinstance(value, dict):
        return {name: _guarded(each) for name, each in value.items()}
    return f" {value}" if isinstance(value, str) and value.startswith("https:") else value


def _is_alone(value: Any, name: str) -> bool:
    return isinstance(value, dict) and value.keys() == {name}
