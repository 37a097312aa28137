"""Calls to text models of a process that is to end: they go on to their ends, also as streams."""

import json
import signal

import pytest
import requests

from harness.service_process import read_response, running_service, until
from simulator import Options, running
from simulator.gemini.options import GeminiOptions
from tests.support.text_calls import GEMINI_KEY, OWNER

pytestmark = pytest.mark.slow

SLOW = "Tell a story [[chunks=6]] [[first=0.1]] [[slow=3]]"


def test_sigterm_waits_for_streams_and_calls_and_refuses_new_ones(tmp_path):
    with running(Options(gemini=GeminiOptions())) as simulator, running_service(
        REPLICATE_BASE_URL=simulator.url, GEMINI_BASE_URL=simulator.url, GEMINI_API_KEY=GEMINI_KEY,
        DATA_DIR=tmp_path, DRAIN_SECONDS=60,
    ) as service:  # fmt: skip
        plain = service.connect("/chat", {"prompt": f"Plain. {SLOW}"}, **OWNER)
        stream = service.connect("/chat", {"prompt": SLOW, "stream": True}, **OWNER)
        received = b""
        while b"delta" not in received:
            received += stream.recv(65536)
        until(lambda: simulator.gemini.counts().in_flight == 2)

        service.signal(signal.SIGTERM)
        until(lambda: requests.get(f"{service.url}/health", timeout=30).status_code == 503)
        late = requests.post(f"{service.url}/chat", json={"prompt": "Hello"}, headers=OWNER, timeout=30)
        with stream:
            while piece := stream.recv(65536):
                received += piece
        finished, whole = read_response(plain)
        assert 0 == service.ended()
        outcomes, sent = simulator.gemini.counts().outcomes, simulator.gemini.counts().requests["stream"]

    assert (503, "shutting_down") == (late.status_code, late.json()["code"])
    assert (200, "STOP") == (finished, whole["finish_reason"])
    events = [json.loads(line[6:]) for line in received.splitlines() if line.startswith(b"data: ")]
    assert events[-1]["success"]
    assert events[-1]["response"] == "".join(each.get("delta", "") for each in events[:-1])
    assert (2, 2) == (sent, sum(outcomes.values())), outcomes
