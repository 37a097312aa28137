"""Text models by both clients and by `rcg`, over sockets, on a real service before the simulated Gemini."""

import asyncio
import io
import json
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass

import pytest
from replicate_concurrent import (
    AsyncClient,
    Client,
    ContentRefused,
    GeminiKeyRejected,
    InvalidRequest,
    OutcomeUnknown,
    OutputInvalid,
    OutputTruncated,
    QuotaExhausted,
    Unauthenticated,
)

from tests.client.conftest import ADMIN
from tests.client.test_over_sockets import PNG, on_asyncio

pytestmark = pytest.mark.slow

SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
SHORT = "[[out=24]] [[chunks=4]] [[first=0]] [[slow=0]]"


@dataclass
class Person:
    name: str


@pytest.fixture
def client(service):
    with Client(service.url, ADMIN) as made:
        yield made


def test_a_prompt_is_answered_with_its_figures(client):
    said = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello."}]
    made = client.chat(f"What is a fox? {SHORT}", messages=said, images=[PNG], temperature=0.1)

    assert (True, "gemini-3.5-flash-lite", "STOP", 24) == (
        made.success, made.model_version, made.finish_reason, made.usage.completion_tokens,
    )  # fmt: skip
    assert made.response
    assert 0 < made.cost_usd
    assert made.id == client.handle(made.id).status().id


def test_an_answer_at_its_limit_is_truncated_and_has_a_warning(client):
    made = client.chat("[[cut=5]] A fox")

    assert made.truncated
    assert made.warnings
    assert not client.chat(f"A fox {SHORT}").truncated


def test_a_text_streams_to_both_clients(client, service):
    async def work(client):
        return [each async for each in client.chat_stream(f"An owl {SHORT}")]

    for pieces in ([*client.chat_stream(f"A fox {SHORT}")], on_asyncio(service, work)):
        assert 4 <= len(pieces) - 1
        assert "".join(each.delta for each in pieces) == pieces[-1].result.response


def test_a_stream_that_ended_is_answered_again_by_its_key_and_costs_nothing_more(client):
    first, second = (
        [*client.chat_stream(f"A hare {SHORT}", idempotency_key="hare-1")][-1].result for _ in range(2)
    )

    assert (first.id, first.response) == (second.id, second.response)


def test_data_is_extracted_by_a_class_and_by_a_schema(client, service):
    made = client.extract("My name is Jane.", schema=Person)
    other = on_asyncio(service, lambda client: client.extract("My name is Jane.", schema=SCHEMA))

    assert Person(made.data["name"]) == made.value
    assert "Successfully generated structured output" == made.message
    assert other.data == other.value


def test_batches_have_their_results_in_input_order(client, service):
    chats = client.chat_batch([f"A fox {SHORT}", "[[blocked]]", f"An owl {SHORT}"], max_concurrent=2)
    data = on_asyncio(
        service, lambda client: client.extract_batch(["Jane", "[[invalid]] Joe"], schema=[Person, SCHEMA])
    )

    assert [True, False, True] == [each.success for each in chats]
    assert isinstance(chats.results[1].error, ContentRefused)
    assert (3, 2, 1) == (chats.total, chats.succeeded, chats.failed)
    assert isinstance(data.results[0].value, Person)
    with pytest.raises(OutputInvalid):
        data.results[1].value  # noqa: B018


def test_each_failure_has_its_class_and_its_partial_answer(client):
    with pytest.raises(OutputInvalid) as invalid:
        client.extract("[[invalid]]", schema=SCHEMA)
    with pytest.raises(OutputTruncated) as truncated:
        client.extract("[[cut=3]]", schema=SCHEMA)
    for lost in (client.chat, lambda prompt: [*client.chat_stream(prompt)]):
        with pytest.raises(OutcomeUnknown) as unknown:
            lost("[[cut-stream]] [[out=60]] [[chunks=6]]")
        assert unknown.value.partial.startswith("A simulated answer")
        assert unknown.value.id
    with pytest.raises(OutcomeUnknown) as silent:
        [*client.chat_stream("[[lost]]")]
    with pytest.raises(QuotaExhausted) as quota:
        client.chat("[[day]]", model="gemini-4-argon")
    with pytest.raises(InvalidRequest) as wrong:
        client.extract("A fox", schema={"type": 7})

    assert invalid.value.fields[0].field == "data"
    assert invalid.value.text
    assert truncated.value.partial is not None
    assert silent.value.id
    assert quota.value.resets_at
    assert "json_schema" in wrong.value.fields[0].field


def test_a_key_of_the_user_pays_alone(service):
    with Client(service.url, "rcg_none", gemini_api_key="a-key-of-a-user") as client:
        made = client.chat_batch([f"A fox {SHORT}"])
        assert made.success
        with pytest.raises(GeminiKeyRejected):
            client.chat("[[bad-key]]")
        with pytest.raises(Unauthenticated):
            client.handle(made.results[0].id).status()


@pytest.fixture
def breaking(service):
    """The address of a line to the service that breaks the first stream after its first event."""

    def serve(listener):
        for number in range(2):
            with suppress(OSError), socket.create_connection(("127.0.0.1", service.port)) as far:
                near, _ = listener.accept()
                with near:
                    _pass(near, far, ends=number == 0)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    thread.join(timeout=30)


def _pass(near, far, *, ends):
    """Pass one request, and its answer up to its end or to its first event."""
    request = b""
    while b'"stream"' not in request:
        request += near.recv(65536)
    far.sendall(request.replace(b"Connection: keep-alive", b"Connection: close"))
    while answer := far.recv(65536):
        near.sendall(answer)
        if ends and b"delta" in answer:
            return


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_stream_over_a_line_that_breaks_goes_on_and_is_paid_once(breaking, is_async):
    prompt = "A long fox [[out=60]] [[chunks=6]] [[first=0]] [[slow=1]]"

    async def listened():
        async with AsyncClient(breaking, ADMIN) as client:
            return [each async for each in client.chat_stream(prompt)]

    if is_async:
        pieces = asyncio.run(listened())
    else:
        with Client(breaking, ADMIN) as client:
            pieces = [*client.chat_stream(prompt)]

    assert 2 <= len(pieces) - 1
    assert "".join(each.delta for each in pieces) == pieces[-1].result.response
    assert 1 == pieces[-1].result.raw["attempts"]


def test_calls_and_their_tokens_are_in_the_usage(client, rcg):
    made = client.chat(f"A fox {SHORT}")
    used = client.usage()

    line = next(each for each in rcg("usage")[1].splitlines() if each.startswith("total"))
    assert used.calls >= 1
    assert used.tokens >= made.usage.total_tokens
    assert [str(used.calls), str(used.total["prompt_tokens"])] == line.split("\t")[5:7]


def test_rcg_chat_prints_the_text_as_it_comes(rcg, tmp_path, monkeypatch):
    (tmp_path / "fox.png").write_bytes(PNG)
    monkeypatch.setattr("sys.stdin", io.StringIO(f"Once more {SHORT}"))

    status, output, _ = rcg("chat", f"A fox {SHORT}", "--image", "fox.png", "--system", "Be brief.")
    whole = json.loads(rcg("chat", "-", "-m", "gemini-3.8-flash", "--json")[1])

    assert 0 == status
    assert output.startswith("A simulated answer")
    assert output.endswith("\n")
    assert ("gemini-3.8-flash", f"Once more {SHORT}") == (whole["model"], whole["prompt"])


def test_rcg_chat_ends_the_line_of_a_text_that_broke_off(rcg):
    status, output, errors = rcg("chat", "[[cut-stream]] [[out=60]] [[chunks=6]]")

    assert (1, "\n") == (status, output[-1:])
    assert output.startswith("A simulated answer")
    assert errors.startswith("rcg: outcome_unknown: ")


def test_rcg_extract_saves_what_the_schema_describes(rcg, tmp_path, monkeypatch):
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    (tmp_path / "letter.txt").write_text("My name is Jané.", encoding="utf-8")
    monkeypatch.setattr("sys.stdin", io.StringIO("My name is Joe."))

    status, output, errors = rcg("extract", "letter.txt", "--schema", "schema.json", "-o", "out/jane.json")
    shown = rcg("extract", "-", "--schema", "schema.json")

    assert (0, "") == (status, output)
    assert errors.endswith("jane.json\n")
    assert ["name"] == [*json.loads((tmp_path / "out" / "jane.json").read_text())]
    assert (0, ["name"]) == (shown[0], [*json.loads(shown[1])])


@pytest.mark.parametrize(
    ("command", "status", "sentence"),
    [
        (["extract", "none.txt", "--schema", "schema.json"], 2, "none.txt: No such file"),
        (["extract", "schema.json", "--schema", "list.json"], 2, "has no JSON Schema"),
        (["extract", "list.json", "--schema", "schema.json", "-o", "list.json"], 1, "exists"),
        (["chat", "A fox", "-m", "no-such"], 1, "model"),
    ],
)
def test_a_wrong_command_is_a_sentence(rcg, tmp_path, command, status, sentence):
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    (tmp_path / "list.json").write_text("[]")

    found, output, errors = rcg(*command)

    assert (status, "") == (found, output)
    assert sentence in errors
