"""Chats by the OpenAI door are paid once, also if their client disconnects or times out, or their process is killed."""

from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
import requests

from harness.service_process import read_response, running_service, until
from tests.support.callers import ADMIN_KEY
from tests.support.dropping_line import dropping_line
from tests.support.openai_retries import BEARER, FIRST, RETRY, listed
from tests.support.text_calls import GEMINI_KEY

pytestmark = [pytest.mark.slow, pytest.mark.every_database]

PATH, LITE = "/v1/chat/completions", "gemini-3.5-flash-lite"


def body_of(content, **fields):
    """The body of a call."""
    return {"model": LITE, "messages": [{"role": "user", "content": content}], **fields}


SLOW = body_of("Hello [[first=1.5]]")


@pytest.fixture
def settings(database_url, simulator, tmp_path):
    """The settings of a service before the simulated Gemini."""
    simulator.gemini.configure(first_seconds=0, seconds=0, chunks=4)
    return {
        "GEMINI_BASE_URL": simulator.url,
        "GEMINI_API_KEY": GEMINI_KEY,
        "CONCURRENT_DOCKER_ADMIN_API_KEY": ADMIN_KEY,
        "DATA_DIR": tmp_path,
        "DATABASE_URL": database_url,
        "PROCESS_TTL": 1,
    }


def streams(simulator):
    """How many calls have reached the simulator."""
    return simulator.gemini.counts().requests.get("stream", 0)


def begun(service, simulator, body=SLOW):
    """The connection of a call, once it is sent."""
    before = streams(simulator)
    caller = service.connect(PATH, body, **FIRST)
    until(lambda: streams(simulator) == before + 1)
    return caller


@pytest.mark.parametrize("body", [SLOW, {**SLOW, "stream": True}], ids=["whole", "stream"])
def test_a_retry_joins_a_chat_whose_answer_had_not_begun(settings, simulator, body):
    with running_service(**settings) as service:
        begun(service, simulator, body).close()
        answer = requests.post(f"{service.url}{PATH}", json=body, headers=RETRY, timeout=30)

        [kept] = listed(service)
        assert 200 == answer.status_code
        assert kept["id"] in answer.text
        assert "succeeded" == kept["status"]
    [bill] = simulator.gemini.bills()
    assert bill.micro_usd == round(kept["cost_usd"] * 1e6)


def test_two_calls_with_waiting_callers_are_two_answers(settings, simulator):
    with running_service(**settings) as service:
        waiting = begun(service, simulator)
        retry = service.connect(PATH, SLOW, **RETRY)

        assert read_response(waiting)[1]["id"] != read_response(retry)[1]["id"]


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_client_that_waits_too_short_gets_its_answer_by_retrying(settings, simulator, is_stream):
    body = body_of("Hello [[first=2]] [[answer=At last]]", stream=is_stream)
    with (
        running_service(**settings) as service,
        openai.OpenAI(base_url=f"{service.url}/v1", api_key=ADMIN_KEY, timeout=1.5, max_retries=5) as client,
    ):
        made = client.chat.completions.create(**body)
        text = (
            "".join(each.choices[0].delta.content or "" for each in made)
            if is_stream
            else made.choices[0].message.content
        )

        assert "At last" == text
        assert 1 == len(listed(service))
    assert 1 == len(simulator.gemini.bills())


def test_a_client_without_retries_that_disconnects_from_a_stream_ends_the_call(settings, simulator):
    body = body_of("Hello [[slow=30]] [[out=300]] [[chunks=100]]", stream=True)
    with running_service(**settings) as service:
        caller = service.connect(PATH, body, **BEARER)
        received = b""
        while b'"content"' not in received.partition(b"\r\n\r\n")[2]:
            received += caller.recv(65536)
        caller.close()

        until(lambda: "canceled" == listed(service)[0]["status"])


def test_a_retry_of_the_call_of_a_killed_process_fails_with_an_unknown_outcome(settings, simulator):
    body = body_of("Hello [[first=20]]")
    with running_service(**settings) as first:
        caller = begun(first, simulator, body)
        first.kill()
        caller.close()
    with running_service(**settings) as second:
        answer = requests.post(f"{second.url}{PATH}", json=body, headers=RETRY, timeout=60)

        assert (500, "outcome_unknown") == (answer.status_code, answer.json()["error"]["code"])
        assert "false" == answer.headers["x-should-retry"]
    assert 1 == streams(simulator)


@pytest.mark.parametrize("whole", [False, True])
def test_through_a_line_that_drops_answers_nothing_is_paid_twice(settings, simulator, whole):
    calls = 60
    texts = [f"Hello {number} [[answer=Number {number}]]" for number in range(calls)]

    def answer(text):
        return client.chat.completions.create(**body_of(text)).choices[0].message.content

    with (
        running_service(**settings) as service,
        dropping_line([service.port], whole=whole) as line,
        openai.OpenAI(base_url=f"{line.url}/v1", api_key=ADMIN_KEY, max_retries=5) as client,
        ThreadPoolExecutor(15) as callers,
    ):
        assert [f"Number {number}" for number in range(calls)] == list(callers.map(answer, texts))
        assert line.dropped > 0
    assert calls >= len(simulator.gemini.bills())
