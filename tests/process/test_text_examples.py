"""The examples of the family's Gemini service, by curl, as its callers send them."""

import json
import re
import subprocess

import pytest

from harness.service_process import ROOT, running_service
from simulator import Options, running
from simulator.gemini.options import GeminiOptions
from tests.support.text_calls import GEMINI_KEY, OWN_KEY

ADMIN_KEY = "the-key-of-the-administrator"

HELLO = '{"prompt": "Hello world"}'
PHYSICS = '{"prompt": "What is the speed of light?", "system_prompt": "You are a helpful physics teacher."}'
PERSON = (
    '{"system_prompt": "Extract person info with high accuracy.", "user_content": "My name is Jane and I live in '
    'New York.", "json_schema": {"type": "object", "properties": {"name": {"type": "string"}, "city": {"type": '
    '"string"}}, "required": ["name", "city"]}}'
)
PRODUCT = (
    '{"system_prompt": "Extract the product.", "user_content": "A red lamp for 20 dollars.", "json_schema": {"type": '
    '"object", "properties": {"product": {"type": "string"}, "usd": {"type": "number"}}, "required": ["product"]}}'
)
LIU_BANG = (
    '{"system_prompt": "Master storyteller creating complete cinematic structure with vivid characters and compelling '
    'narratives.", "user_content": "Historical drama about Liu Bang, founder of Han Dynasty, focusing on his rise '
    'from peasant to emperor."}'
)
BATCH_OF_CHATS = (
    '{"requests": [{"prompt": "What is the speed of light?", "system_prompt": "You are a helpful physics teacher.", '
    '"model": "gemini-2.5-flash"}, {"prompt": "Explain quantum mechanics", "system_prompt": "You are a quantum '
    'physics expert.", "model": "gemini-2.5-pro"}], "credentials": {"gemini_api_key": "your_key"}, '
    '"external_semaphore_id": "optional_cross_service_id"}'
)


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The base URL of a service that pays for calls without a key."""
    options = Options(gemini=GeminiOptions(first_seconds=0, seconds=0))
    with running(options) as simulator, running_service(
        GEMINI_OPEN=1,
        GEMINI_API_KEY=GEMINI_KEY,
        GEMINI_BASE_URL=simulator.url,
        REPLICATE_BASE_URL=simulator.url,
        ADMIN_API_KEY=ADMIN_KEY,
        DATA_DIR=tmp_path_factory.mktemp("data"),
    ) as service:  # fmt: skip
        yield service.url


def curl(*arguments):
    """The status and the body of what curl gets."""
    done = subprocess.run(
        ["curl", "-s", "-w", "\n%{http_code}", *arguments],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    body, _, status = done.stdout.rpartition("\n")
    return int(status), json.loads(body)


def post(url, body, *, admin=True):
    key = ["-H", f"Admin-API-Key: {ADMIN_KEY}"] if admin else []
    status, answer = curl("-X", "POST", url, "-H", "Content-Type: application/json", *key, "-d", body)
    assert 200 == status, answer
    return answer


@pytest.mark.parametrize("admin", [True, False])
@pytest.mark.parametrize("body", [HELLO, PHYSICS])
def test_a_chat(address, body, admin):
    answer = post(f"{address}/chat", body, admin=admin)

    assert (True, "gemini-3.5-flash-lite") == (answer["success"], answer["model"])
    assert answer["response"]


def test_a_chat_with_the_callers_credentials(address):
    own = f'{{"credentials": {{"gemini_api_key": "{OWN_KEY}"}}, "prompt": "Hello world"}}'
    assert post(f"{address}/chat", own, admin=False)["success"]
    theirs = '{"credentials": {"gemini_api_key": "user_api_key"}, "prompt": "Hello world"}'
    assert post(f"{address}/chat", theirs, admin=False)["success"]


def test_a_batch_of_chats_with_a_semaphore(address):
    made = '{"semaphore_id": "optional_cross_service_id", "limit": 50}'
    assert 50 == post(f"{address}/_admin/semaphores", made)["limit"]
    shown = curl(f"{address}/_admin/semaphores", "-H", f"Admin-API-Key: {ADMIN_KEY}")
    assert ["optional_cross_service_id"] == [each["semaphore_id"] for each in shown[1]["semaphores"]]

    answer = post(f"{address}/batch/chat", BATCH_OF_CHATS, admin=False)

    assert (2, 2, 0) == totals(answer)
    models = [(each["success"], each["model"], each["index"]) for each in answer["results"]]
    assert [(True, "gemini-2.5-flash", 0), (True, "gemini-2.5-pro", 1)] == models
    assert all(each["response"] for each in answer["results"])


def totals(answer):
    return tuple(answer[f"{name}_requests"] for name in ("total", "successful", "failed"))


@pytest.mark.parametrize("admin", [True, False])
def test_structured_output(address, admin):
    answer = post(f"{address}/structured-output", PERSON, admin=admin)

    assert (True, "Successfully generated structured output") == (answer["success"], answer["message"])
    assert {"name", "city"} <= answer["data"].keys()


@pytest.mark.parametrize("admin", [True, False])
def test_a_batch_of_structured_output(address, admin):
    body = f'{{"requests": [{PERSON}, {PRODUCT}]}}'
    answer = post(f"{address}/batch/structured-output", body, admin=admin)

    assert (2, 2, 0) == totals(answer)
    first, second = answer["results"]
    assert {"success", "data", "message", "index"} <= first.keys()
    assert "name" in first["data"]
    assert "product" in second["data"]


@pytest.mark.parametrize("admin", [True, False])
def test_cinematic_stories(address, admin):
    answer = post(f"{address}/cinematic-story-design", LIU_BANG, admin=admin)
    assert answer["success"]
    assert answer["data"]
    assert answer["message"]

    both = ", ".join([f'{LIU_BANG[:-1]}, "model": "gemini-2.5-pro"}}'] * 2)
    answer = post(f"{address}/batch/cinematic-story-design", f'{{"requests": [{both}]}}', admin=admin)
    assert (2, 2, 0) == totals(answer)
    assert {"gemini-2.5-pro"} == {each["model"] for each in answer["results"]}


def test_the_start_page_and_the_documents(address):
    status, answer = curl(f"{address}/")
    assert 200 == status
    assert 15 == answer["providers"]["gemini"]["concurrency"]["concurrent_limit"]
    assert "/chat" in curl(f"{address}/openapi.json")[1]["paths"]
    page = subprocess.run(["curl", "-s", f"{address}/docs"], capture_output=True, text=True, check=True)
    assert "/structured-output" in page.stdout


def test_a_wrong_admin_key_is_refused_although_the_service_is_open(address):
    headers = ["-H", "Content-Type: application/json", "-H", "Admin-API-Key: wrong"]
    status, answer = curl(f"{address}/chat", *headers, "-d", HELLO)
    assert (401, "unauthenticated") == (status, answer["code"])


def test_the_examples_of_the_document_run_as_shown(address):
    [block] = re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / "texts.md").read_text(), re.DOTALL)
    for command in re.split(r"\n(?=curl)", block.strip().replace("http://", "")):
        shell = command.replace("localhost:5000", address)
        done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, timeout=60, check=True)
        assert (
            '"success": true' in done.stdout.replace('":true', '": true') or "total_requests" in done.stdout
        ), shell
        assert '"success":false' not in done.stdout
