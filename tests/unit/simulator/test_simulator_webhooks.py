"""Webhooks tell what was asked for, signed, until somebody listens."""

import json
import threading
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from replicate.webhook import Webhooks, WebhookSigningSecret


class Receiver:
    """A server that takes webhooks, after refusing some."""

    def __init__(self) -> None:
        self.answers: deque[int] = deque()
        self.taken: list[tuple[dict[str, str], str]] = []
        self.refused: list[dict[str, str]] = []
        self.completed = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                headers = {name.lower(): value for name, value in self.headers.items()}
                status = receiver.answers.popleft() if receiver.answers else 200
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()
                if status != 200:
                    receiver.refused.append(headers)
                    return
                receiver.taken.append((headers, body))
                if json.loads(body)["completed_at"]:
                    receiver.completed.set()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"

    def statuses(self) -> list[str]:
        assert self.completed.wait(10)
        return sorted(json.loads(body)["status"] for _, body in self.taken)


@pytest.fixture
def receiver():
    made = Receiver()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.01,))
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


def hooked(receiver, *events):
    return {"webhook": receiver.url} | ({"webhook_events_filter": list(events)} if events else {})


def test_only_the_events_asked_for_are_told(caller, receiver):
    caller.create(body=hooked(receiver, "completed"))
    assert receiver.statuses() == ["succeeded"]


def test_a_start_is_told_as_it_was_then(caller, receiver):
    caller.create("[[slow=0.3]]", body=hooked(receiver, "start", "completed"))
    assert receiver.statuses() == ["processing", "succeeded"]


def test_without_a_filter_outputs_and_the_end_are_told(caller, receiver):
    made = caller.create("[[fail]]", body=hooked(receiver)).json()
    assert made["webhook"] == receiver.url
    assert receiver.statuses() == ["failed"]


def test_a_webhook_is_signed_as_the_official_client_checks_it(caller, receiver):
    caller.create(body=hooked(receiver, "completed"))
    receiver.statuses()
    ((headers, body),) = receiver.taken
    key = caller.get("/v1/webhooks/default/secret").json()["key"]
    assert key.startswith("whsec_")
    assert headers["webhook-signature"].startswith("v1,")
    secret = WebhookSigningSecret(key=key)
    Webhooks.validate(headers=headers, body=body, secret=secret, tolerance=60)


def test_a_refused_webhook_comes_again_under_the_same_id(sim, caller, receiver):
    receiver.answers.extend([500, 302])
    caller.create(body=hooked(receiver, "completed"))
    assert receiver.statuses() == ["succeeded"]
    ids = {headers["webhook-id"] for headers in [*receiver.refused, receiver.taken[0][0]]}
    assert len(receiver.refused) == 2
    assert len(ids) == 1
    assert sim.counts().webhooks_refused == 2


@pytest.mark.parametrize("url", ["http://example.com/hook", "ftp://127.0.0.1", "nonsense", 7])
def test_a_webhook_that_is_not_https_is_refused(caller, url):
    answer = caller.create(body={"webhook": url})
    assert answer.status_code == 422
    assert answer.json()["invalid_fields"][0]["field"] == "webhook"


def test_an_unknown_event_is_refused(caller, receiver):
    assert caller.create(body=hooked(receiver, "started")).status_code == 422
