"""Google's own client understands the simulated Gemini, and sends each call once."""

import asyncio
import json
from collections.abc import Iterator

import pytest
from google import genai
from google.genai import errors, types

from simulator import Simulator

MODEL = "gemini-3.8-flash"
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "year": {"type": "integer", "minimum": 1900, "maximum": 2026}},
    "required": ["name", "year"],
    "additionalProperties": False,
}


@pytest.fixture
def google(sim: Simulator) -> Iterator[genai.Client]:
    """The client, without retries. With `retry_options` set, it does not send again after a lost connection either."""
    options = types.HttpOptions(
        base_url=sim.url,
        api_version="v1beta",
        timeout=20_000,
        retry_options=types.HttpRetryOptions(attempts=1),
        client_args={"trust_env": False},
        async_client_args={"trust_env": False},
    )
    with genai.Client(api_key="AQ.tester", http_options=options) as client:
        yield client


def config(**fields):
    return types.GenerateContentConfig(automatic_continuation=False, **fields)


def test_a_unary_answer_is_read_with_its_usage(google):
    answer = google.models.generate_content(
        model=MODEL,
        contents="Hello",
        config=config(
            system_instruction="Be short.",
            max_output_tokens=500,
            temperature=1.0,
            seed=5,
            thinking_config=types.ThinkingConfig(thinking_level="low", include_thoughts=True),
            safety_settings=[
                types.SafetySetting(category="HARM_CATEGORY_HARASSMENT", threshold="BLOCK_ONLY_HIGH")
            ],
        ),
    )

    usage = answer.usage_metadata
    assert answer.text.startswith("A simulated answer of gemini-3.8-flash to: Be short. Hello")
    assert types.FinishReason.STOP is answer.candidates[0].finish_reason
    assert [True, None] == [part.thought for part in answer.candidates[0].content.parts]
    assert (24, 60) == (usage.thoughts_token_count, usage.candidates_token_count)
    assert usage.total_token_count == usage.prompt_token_count + 24 + 60
    assert (MODEL, 22) == (answer.model_version, len(answer.response_id))


def test_a_stream_is_read_chunk_by_chunk(google, sim):
    chunks = list(
        google.models.generate_content_stream(model=MODEL, contents="Hello [[chunks=6]]", config=config())
    )

    assert 6 == len(chunks)
    assert types.FinishReason.STOP is chunks[-1].candidates[0].finish_reason
    assert 1 == sim.gemini.counts().requests["stream"]
    assert [chunks[-1].response_id] == [bill.response_id for bill in sim.gemini.bills()]


def test_an_answer_by_a_schema_is_parsed(google):
    answer = google.models.generate_content(
        model=MODEL,
        contents="Who?",
        config=config(response_mime_type="application/json", response_json_schema=SCHEMA),
    )

    found = json.loads(answer.text)
    assert {"name", "year"} == found.keys()
    assert 1900 <= found["year"] <= 2026


def test_an_openapi_schema_of_pydantic_is_parsed(google):
    answer = google.models.generate_content(
        model=MODEL,
        contents="Who?",
        config=config(
            response_mime_type="application/json",
            response_schema=types.Schema(
                type="OBJECT",
                properties={"name": types.Schema(type="STRING", nullable=True)},
                required=["name"],
            ),
        ),
    )

    assert isinstance(json.loads(answer.text)["name"], str)


def test_a_picture_is_counted_by_its_tiles(google, picture):
    parts = [types.Part.from_bytes(data=picture(1000, 500), mime_type="image/png"), "Hi"]

    assert 2 * 258 + 1 == google.models.count_tokens(model=MODEL, contents=parts).total_tokens


@pytest.mark.parametrize(
    ("mark", "code", "status"),
    [
        ("minute", 429, "RESOURCE_EXHAUSTED"),
        ("capacity", 429, "RESOURCE_EXHAUSTED"),
        ("bad-key", 400, "INVALID_ARGUMENT"),
        ("refused-key", 401, "UNAUTHENTICATED"),
        ("country", 400, "FAILED_PRECONDITION"),
        ("demand", 503, "UNAVAILABLE"),
        ("status=500", 500, "INTERNAL"),
        ("status=504", 504, "DEADLINE_EXCEEDED"),
    ],
)
def test_an_error_keeps_code_status_and_details_and_is_sent_once(google, sim, mark, code, status):
    with pytest.raises(errors.APIError) as unary:
        google.models.generate_content(model=MODEL, contents=f"[[{mark}]]", config=config())
    with pytest.raises(errors.APIError) as streamed:
        list(google.models.generate_content_stream(model=MODEL, contents=f"[[{mark}]]", config=config()))

    for raised in (unary.value, streamed.value):
        assert (code, status) == (raised.code, raised.status)
    assert {"generate": 1, "stream": 1} == sim.gemini.counts().requests


def test_an_unknown_model_is_an_error(google):
    with pytest.raises(errors.ClientError, match="ListModels") as raised:
        google.models.generate_content(model="gemini-0", contents="x", config=config())

    assert 404 == raised.value.code


def test_a_blocked_prompt_and_an_unknown_reason_are_read(google):
    blocked = google.models.generate_content(model=MODEL, contents="[[blocked=JAILBREAK]]", config=config())
    empty = google.models.generate_content(model=MODEL, contents="[[empty]]", config=config())

    assert (None, "JAILBREAK") == (blocked.candidates, blocked.prompt_feedback.block_reason)
    assert not empty.text


def test_a_lost_answer_is_not_sent_again(google, sim):
    with pytest.raises(Exception, match=r"(?i)reset|disconnect|protocol|read"):
        google.models.generate_content(model=MODEL, contents="[[lost]]", config=config())

    assert {"generate": 1} == sim.gemini.counts().requests
    assert ["lost"] == [bill.outcome for bill in sim.gemini.bills()]


@pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning")
def test_the_asynchronous_client_reads_a_stream(google, sim):
    async def texts():
        stream = await google.aio.models.generate_content_stream(
            model=MODEL, contents="Hello [[chunks=3]]", config=config()
        )
        found = [chunk.text async for chunk in stream]
        await google.aio.aclose()
        return found

    assert 3 == len(asyncio.run(texts()))
    assert {"stream": 1} == sim.gemini.counts().requests


def test_models_are_listed_page_by_page_and_one_by_one(google):
    listed = list(google.models.list(config={"page_size": 4}))
    one = google.models.get(model=MODEL)

    assert "models/gemini-3.5-flash-lite" in [each.name for each in listed]
    assert (1_048_576, 65_536) == (one.input_token_limit, one.output_token_limit)
    assert "generateContent" in one.supported_actions
