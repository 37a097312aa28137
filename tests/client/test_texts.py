"""Calls to text models on a scripted service: streams that break, keys, images and schemas."""

import json
from base64 import b64encode
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx
import pytest
from pydantic import BaseModel
from replicate_concurrent import (
    ApiError,
    BadAnswer,
    ConnectionLost,
    GenerationFailed,
    OutcomeUnknown,
    OutputInvalid,
    QuotaExhausted,
    Unauthenticated,
    config,
    errors,
)
from replicate_concurrent.answer_schemas import built, json_schema
from replicate_concurrent.cli.queries import price_of
from replicate_concurrent.config import Settings
from replicate_concurrent.operations import texts
from replicate_concurrent.operations.sending import Service

from errors.listing import every_error
from tests.support.scripted_service import URL, ScriptedService, answer

WHOLE = {"id": "gen_1", "status": "succeeded", "success": True, "response": "A red fox."}


def events(*listed, breaks=False):
    """A stream of events: pieces of a text, or whole events. One that `breaks` ends in a lost connection."""
    blocks = [
        each if each.startswith(("data:", "event:")) else f"data: {json.dumps({'delta': each})}"
        for each in listed
    ]

    def lines():
        yield "".join(f"{each}\n\n" for each in blocks).encode()
        if breaks:
            raise httpx.ReadError("the connection was reset")

    return lambda request: httpx.Response(200, content=lines(), headers={"Content-Type": "text/event-stream"})


LAST = f"data: {json.dumps(WHOLE)}"


def failure(code, **more):
    return f"event: error\ndata: {json.dumps({'code': code, 'detail': 'No.', 'retryable': False, **more})}"


@pytest.fixture
def scripted():
    return lambda *answers, **settings: ScriptedService(answers, **settings)


def pieces(service, **parameters):
    return service.emitted(texts.stream(service.service, texts.chat_order("A fox", parameters)))


def test_a_text_comes_in_pieces_and_its_result_at_last(scripted):
    newer = 'event: queued\ndata: {"position": 3}'
    got = pieces(scripted(events(newer, "A red ", "fox.", LAST)))

    assert [("A red ", None), ("fox.", None), ("", "A red fox.")] == [
        (each.delta, each.result and each.result.response) for each in got
    ]


@pytest.mark.parametrize(
    "again",
    [
        events("A red ", "fox.", LAST),  # as it was sent at first
        events("A red fox.", LAST),  # what was there already comes in one piece
        events("A ", "red", " fox.", LAST),
        events(LAST),  # it has ended meanwhile
    ],
)
@pytest.mark.parametrize("broken", [events(breaks=True), events("A red", breaks=True), events("A red")])
def test_a_stream_that_breaks_goes_on_under_its_key_where_it_was(scripted, broken, again):
    service = scripted(broken, again)

    got = pieces(service)

    assert "A red fox." == "".join(each.delta for each in got) == got[-1].result.response
    keys = {each.headers["idempotency-key"] for each in service.requests}
    assert (2, 1) == (len(service.requests), len(keys))
    assert service.bodies()[0] == service.bodies()[1] == {"prompt": "A fox", "stream": True}


def test_a_service_that_stops_in_a_stream_is_joined_again_and_any_other_error_is_raised(scripted):
    stops = events("A red ", failure("shutting_down", retryable=True))
    assert "A red fox." == "".join(each.delta for each in pieces(scripted(stops, events(LAST))))

    service = scripted(events("A red ", failure("upstream_error", retryable=True, id="gen_1")))
    with pytest.raises(GenerationFailed):
        pieces(service)
    assert 1 == len(service.requests)


def test_the_error_of_a_lost_answer_has_its_partial_text(scripted):
    with pytest.raises(OutcomeUnknown) as lost:
        pieces(scripted(events("A red ", failure("outcome_unknown", id="gen_1", partial="A red "))))

    assert ("A red ", "gen_1") == (lost.value.partial, lost.value.id)
    assert isinstance(lost.value, GenerationFailed)


def test_a_text_that_began_anew_has_its_own_result(scripted):
    got = pieces(scripted(events("A blue ", breaks=True), events("A red ", "fox.", LAST)), on_lost="repeat")

    assert ["A blue ", "A red ", "fox.", ""] == [each.delta for each in got]
    assert "A red fox." == got[-1].result.response


def test_a_stream_without_anything_new_ends_with_the_time_of_the_call(scripted):
    service = scripted(events("A red ", breaks=True), timeout=5.0)

    with pytest.raises(ConnectionLost, match="was reset"):
        pieces(service)

    assert 5.0 <= service.time - 1000.0 < 7.0


def test_a_page_is_no_stream(scripted):
    with pytest.raises(BadAnswer, match="no stream"):
        pieces(scripted(answer(200, WHOLE)))


def test_a_chat_that_takes_long_is_looked_at_with_the_same_key():
    service = ScriptedService([answer(202, {"id": "gen_1", "status": "queued"}), answer(200, WHOLE)])
    with_key = Service(Settings(URL, "rcg_team", gemini_api_key="AIza"), 600.0, find=None)
    order = texts.chat_order("A fox", {"temperature": 0.2, "model": None})

    made = service.run(texts.answer(with_key, order, texts.chat_result))

    assert "A red fox." == made.response
    assert ["POST /chat", "GET /generations/gen_1"] == service.paths()
    assert {"prompt": "A fox", "temperature": 0.2} == json.loads(service.requests[0].content)
    sent = [
        (each.headers.get("x-gemini-api-key"), "authorization" in each.headers) for each in service.requests
    ]
    assert [("AIza", False)] * 2 == sent


def test_images_are_sent_as_data_wherever_they_are(tmp_path, monkeypatch):
    content = b"\x89PNG\r\n\x1a\n"
    (tmp_path / "fox.png").write_bytes(content)
    monkeypatch.chdir(tmp_path)
    uri = f"data:image/png;base64,{b64encode(content).decode()}"
    service = ScriptedService([answer(200, WHOLE)])
    said = [{"role": "user", "content": "This?", "images": ["fox.png"]}]
    images = [tmp_path / "fox.png", content, "fox.png", "https://pictures.test/fox.png"]

    order = texts.chat_order("And these?", {"images": images, "messages": said})
    service.run(texts.answer(service.service, order, texts.chat_result))

    [body] = service.bodies()
    assert [uri, uri, uri, "https://pictures.test/fox.png"] == body["images"]
    assert [uri] == body["messages"][0]["images"]


def test_a_batch_sends_its_own_fields_once_and_those_of_its_items_in_each():
    results = [{**WHOLE, "index": 1}, {"index": 0, "id": "gen_0", "success": False, "error": {"code": "no"}}]
    service = ScriptedService([answer(200, {"id": "batch_1", "success": False, "results": results})])
    order = texts.chat_batch_order(["A", "B"], None, {"seed": 7, "max_concurrent": 2, "model": None})

    made = service.run(texts.answers(service.service, order, texts.chat_result))

    assert [(0, "no"), (1, None)] == [(each.index, each.error and each.error.code) for each in made]
    items = [{"seed": 7, "prompt": "A"}, {"seed": 7, "prompt": "B"}]
    assert [{"max_concurrent": 2, "requests": items}] == service.bodies()


@pytest.mark.parametrize(
    "order",
    [
        lambda: texts.chat_order("A", {"stream": True}),
        lambda: texts.chat_batch_order("A", None, {}),
        lambda: texts.chat_batch_order(None, None, {}),
        lambda: texts.extract_batch_order(["A", "B"], [{}], {}),
        lambda: texts.extract_order("A", "no schema", {}),
    ],
)
def test_arguments_that_contradict_each_other_are_refused(order):
    with pytest.raises(TypeError):
        order()


def test_each_error_of_the_service_has_a_class_and_its_facts():
    classes = {each.code: type(errors.api_error({"code": each.code})) for each in every_error()}
    plain = {code for code, kind in classes.items() if kind is ApiError}

    assert {"internal", "method_not_allowed", "model_exists", "semaphore_in_use", "lease_expired",
            "unsupported_media_type", "range_not_satisfiable", "headers_too_large"} == plain  # fmt: skip
    assert issubclass(classes["server_gemini_key_rejected"], Unauthenticated)
    quota = errors.api_error({"code": "quota_exhausted", "resets_at": "2026-11-28T08:00:00.000Z"})
    assert (QuotaExhausted, "2026-11-28T08:00:00.000Z") == (type(quota), quota.resets_at)
    invalid = errors.api_error({"code": "output_invalid", "text": "{}"})
    assert (OutputInvalid, "{}") == (type(invalid), invalid.text)


def test_a_gemini_key_of_the_environment_is_not_sent_to_a_service_that_pays(tmp_path):
    def key(*passed, **environ):
        return config.load(*passed, environ={"RCG_CONFIG": str(tmp_path / "none"), **environ}).gemini_api_key

    assert "AIza" == key("http://a.test", None, "r8_mine", GEMINI_API_KEY="AIza")
    assert "AIza" == key("http://a.test", GEMINI_API_KEY="AIza")
    assert key("http://a.test", "rcg_team", GEMINI_API_KEY="AIza") is None
    assert "mine" == key("http://a.test", "rcg_team", None, "mine", GEMINI_API_KEY="AIza")


@dataclass
class Town:
    name: str
    people: int | None = None


@dataclass
class Person:
    name: str
    kind: Literal["child", "adult"]
    height: float
    towns: list[Town]
    notes: dict[str, Any] = field(default_factory=dict)


class Fox(BaseModel):
    name: str
    age: int = 1


def test_classes_are_schemas_and_answers_become_their_instances():
    schema = json_schema(Person)
    data = {"name": "Jane", "kind": "adult", "height": 2, "towns": [{"name": "Ulm", "people": 9}]}

    assert ["name", "kind", "height", "towns"] == schema["required"]
    assert {"type": "array", "items": json_schema(Town)} == schema["properties"]["towns"]
    assert {"anyOf": [{"type": "integer"}, {"type": "null"}]} == json_schema(Town)["properties"]["people"]
    assert Person("Jane", "adult", 2.0, [Town("Ulm", 9)]) == built(Person, data)
    assert (Fox(name="Fritz"), ["name"]) == (built(Fox, {"name": "Fritz"}), json_schema(Fox)["required"])
    assert {"x": 1} == built({"type": "object"}, {"x": 1})


def test_a_class_without_a_schema_is_refused():
    @dataclass
    class Strange:
        inner: set[int]

    with pytest.raises(TypeError, match="has no JSON Schema here"):
        json_schema(Strange)


def test_the_price_of_a_text_model_is_that_of_today():
    prices = [
        {"prompt": 9.0, "answer": 9.0, "cached": 9.0},
        {"prompt": 0.3, "answer": 2.5, "cached": 0.03, "since": "2026-01-01"},
        {"prompt": 8.0, "answer": 8.0, "cached": 8.0, "since": "9999-01-01"},
    ]

    assert "0.3 in, 2.5 out USD/million tokens" == price_of({"usd_per_million_tokens": prices})
    assert "0.03 USD/image" == price_of({"price": {"usd": 0.03, "per": "image"}})
