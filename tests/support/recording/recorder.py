"""Records what the service of this commit answers, to be compared with another commit's answers.

    python -m tests.support.recording.recorder OUT.json              # `OUT.json.xz` compresses it
    python -m tests.support.recording.recorder --compare A.json B.json

It uses `app.create_app`, `settings.Settings`, the simulator and HTTP, and nothing of the inside, so that the same file
runs on every commit. `recording/steps.py` has the requests, `recording/normal.py` says what of the answers is compared.
"""

import json
import logging
import lzma
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import requests
from flask import Flask
from werkzeug.datastructures import FileStorage, Headers, MultiDict
from werkzeug.test import encode_multipart

from app import create_app
from harness.service_process import running_service, until
from settings import Settings
from simulator import Options, Simulator, running
from tests.support.kept_ledgers import ADDED, ADMIN_KEY, SERVER_TOKEN, TOKENS, read_answers, unpacked
from tests.support.recording.normal import HEADERS, PRESENT, Names, without_prose
from tests.support.recording.steps import ASYNC, PICTURE, SCENES, Scene, Step

_PATIENCE = 20.0


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str] | Headers
    content: bytes


Send = Callable[[str, str, Mapping[str, str], bytes | None], Answer]
"""Sends method, path, headers and body."""


class Receiver:
    """Receives webhooks."""

    def __init__(self) -> None:
        self.received: list[tuple[dict[str, str], bytes]] = []
        received = self.received

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                received.append(({name.lower(): value for name, value in self.headers.items()}, body))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Recorder:
    """Takes the steps of one scene."""

    def __init__(self, send: Send, simulator: Simulator, receiver: Receiver) -> None:
        self._send = send
        self._simulator = simulator
        self._receiver = receiver
        self._names = Names()
        self._kept = {"hook": receiver.url}

    def take(self, step: Step) -> dict[str, Any]:
        if step.account:
            self._simulator.account(**step.account)
        if step.fault:
            self._simulator.inject(**step.fault)
        time.sleep(step.pause)
        give_up = time.monotonic() + _PATIENCE
        while True:
            answer = self._sent(step)
            body = _json(answer)
            if step.until in {None, body.get("status")} or time.monotonic() > give_up:
                break
            time.sleep(0.02)
        if step.keep:
            self._kept[step.keep] = body.get("id", "none")
            if body.get("files"):
                self._kept[f"{step.keep}.file"] = urlsplit(body["files"][0]).path
        return self._recorded(step, answer)

    def _sent(self, step: Step) -> Answer:
        headers = {**_keys(step.who), **step.headers}
        body: bytes | None = step.data
        if step.form is not None:
            fields = {
                name: FileStorage(BytesIO(value), f"{name}.png") if isinstance(value, bytes) else value
                for name, value in step.form.items()
            }
            _, body = encode_multipart(MultiDict(fields), boundary="boundary")
            headers["Content-Type"] = "multipart/form-data; boundary=boundary"
        elif body is None and (step.json is not None or step.method == "POST"):
            body = self._filled(json.dumps(step.json)).encode()
            headers.setdefault("Content-Type", "application/json")
        return self._send(step.method, self._filled(step.path), headers, body)

    def _filled(self, text: str) -> str:
        return re.sub(r"\{([a-z]+(?:\.file)?)\}", lambda found: self._kept.get(found[1], found[0]), text)

    def _recorded(self, step: Step, answer: Answer) -> dict[str, Any]:
        mimetype = answer.headers.get("Content-Type", "").partition(";")[0]
        exact = step.until is not None
        headers = {name: self._names.text(answer.headers[name]) for name in HEADERS if name in answer.headers}
        record = {
            "asked": f"{step.method} {self._names.text(self._filled(step.path))} by {step.who}",
            "status": answer.status,
            "headers": headers | {name: "present" for name in PRESENT if name in answer.headers},
            "body": self._names.body(answer.content, mimetype, exact=exact),
        }
        if step.webhooks is not None:
            until(lambda: len(self._receiver.received) >= (step.webhooks or 0))
            record["heard"] = [self._webhook(*each) for each in self._receiver.received[step.webhooks - 1 :]]
        return record

    def _webhook(self, headers: Mapping[str, str], body: bytes) -> Any:
        kept = {name: self._names.text(value) for name, value in headers.items() if name == "webhook-id"}
        return [sorted(headers), kept, self._names.body(body, headers["content-type"])]


def _keys(who: str | None) -> dict[str, str]:
    if who is None:
        return {}
    tokens = TOKENS | {"user": "r8_user", "other": "r8_other"}
    return {"X-Admin-API-Key": ADMIN_KEY} if who == "admin" else {"X-Replicate-API-Key": tokens[who]}


def _json(answer: Answer) -> dict[str, Any]:
    if "json" in answer.headers.get("Content-Type", "") and "ndjson" not in answer.headers["Content-Type"]:
        found = json.loads(answer.content or b"{}")
        return found if isinstance(found, dict) else {}
    return {}


@contextmanager
def _started(scene: Scene, simulator: Simulator, data: Path) -> Iterator[Send]:
    """The service of a scene, as something to send requests to."""
    environ = {
        "CONCURRENT_DOCKER_ADMIN_API_KEY": ADMIN_KEY,
        "REPLICATE_API_TOKEN": SERVER_TOKEN,
        "REPLICATE_BASE_URL": simulator.url,
        "LOG_LEVEL": "error",
        "DATA_DIR": data,
        **scene.settings,
    }
    if scene.kind == "kept":
        unpacked(data, read_answers().written_at)
    if scene.kind == "draining":
        with running_service(**environ, DRAIN_SECONDS=60) as service:
            send = _over_http(service.url)
            hanging = json.dumps(PICTURE | {"prompt": "[[hang]]"}).encode()
            send("POST", "/generate", _keys("user") | ASYNC | {"Content-Type": "application/json"}, hanging)
            until(lambda: simulator.counts().in_flight == 1)
            service.signal(signal.SIGTERM)
            until(lambda: send("GET", "/health", {}, None).status == 503)
            yield send
            service.kill()
        return
    app = create_app(Settings.from_env({name: str(value) for name, value in environ.items()}))
    if scene.kind == "kept":
        time.sleep(1)  # until what ends at the opening is in the ledger
    try:
        yield _inside(app)
    finally:
        app.extensions["service"].close()


def _inside(app: Flask) -> Send:
    client = app.test_client()

    def send(method: str, path: str, headers: Mapping[str, str], body: bytes | None) -> Answer:
        response = client.open(path, method=method, headers=dict(headers), data=body)
        answer = Answer(response.status_code, response.headers, response.data)
        response.close()
        return answer

    return send


def _over_http(url: str) -> Send:
    def send(method: str, path: str, headers: Mapping[str, str], body: bytes | None) -> Answer:
        response = requests.request(method, url + path, headers=headers, data=body, timeout=30)
        return Answer(response.status_code, response.headers, response.content)

    return send


def recorded(scenes: Sequence[Scene] = SCENES) -> dict[str, list[dict[str, Any]]]:
    """The answers to every step of every scene."""
    logging.getLogger("werkzeug").disabled = True
    recording = {}
    for scene in scenes:
        with ExitStack() as stack:
            data = Path(stack.enter_context(TemporaryDirectory()))
            options = Options(prediction_seconds=0.02, jitter=0.0, seed=1)
            simulator = stack.enter_context(running(options))
            receiver = Receiver()
            stack.callback(receiver.close)
            send = stack.enter_context(_started(scene, simulator, data))
            recorder = Recorder(send, simulator, receiver)
            recording[scene.name] = [recorder.take(step) for step in scene.steps]
    return recording


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The differences between two recordings, each with both values. Versions and prose may differ."""
    one, other = _unversioned(one), _unversioned(other)
    found = []
    for scene in [*one, *(name for name in other if name not in one)]:
        ours, theirs = one.get(scene, []), other.get(scene, [])
        if len(ours) != len(theirs):
            found.append(f"{scene}: {len(ours)} answers, and {len(theirs)}")
        for number, (left, right) in enumerate(zip(ours, theirs, strict=False)):
            where = f"{scene} [{number}] {left['asked']}"
            found += [
                f"{where}: {each}" for each in _different("", without_prose(left), without_prose(right))
            ]
    return found


def _unversioned(recording: Mapping[str, Any]) -> dict[str, Any]:
    """The recording with `<version>` in place of the version that its `/health` gives."""
    bodies = (
        answer["body"]
        for answers in recording.values()
        for answer in answers
        if answer["asked"].startswith("GET /health ") and answer["status"] == 200
    )
    version = next((body["version"] for body in bodies), None)
    if version is None:
        return dict(recording)
    return {
        scene: json.loads(json.dumps(answers).replace(version, "<version>"))
        for scene, answers in recording.items()
    }


def _different(path: str, one: Any, other: Any) -> Iterator[str]:
    if isinstance(other, dict | list) and isinstance(one, type(other)):
        other = _without_new_fields(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        if list(one) != list(other) and set(one) == set(other):
            yield f"{path}: the order of {list(one)} is {list(other)}"
        for name in dict.fromkeys([*one, *other]):
            yield from _different(f"{path}.{name}", one.get(name, "(absent)"), other.get(name, "(absent)"))
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for index, (left, right) in enumerate(zip(one, other, strict=True)):
            yield from _different(f"{path}[{index}]", left, right)
    elif one != other or type(one) is not type(other):
        yield f"{path}: {json.dumps(one)[:500]} is {json.dumps(other)[:500]}"


def _without_new_fields(one: Any, other: Any) -> Any:
    """An object, or the list of an object's fields, without those that 0.4.0 did not have."""
    if isinstance(other, dict):
        return {name: each for name, each in other.items() if name not in ADDED or name in one}
    return [each for each in other if not (isinstance(each, str) and each in ADDED) or each in one]


def read(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    recording: dict[str, Any] = json.loads(lzma.decompress(content) if path.suffix == ".xz" else content)
    return recording


def write(recording: Mapping[str, Any], path: Path) -> None:
    content = json.dumps(recording, indent=1, ensure_ascii=False).encode()
    path.write_bytes(lzma.compress(content, preset=9) if path.suffix == ".xz" else content)


def main(arguments: Sequence[str]) -> int:
    if arguments[:1] == ["--compare"] and len(arguments) == 3:
        found = differences(*(read(Path(each)) for each in arguments[1:]))
        sys.stdout.write("".join(f"{each}\n" for each in found) + f"{len(found)} differences\n")
        return 1 if found else 0
    if len(arguments) != 1:
        sys.stderr.write(__doc__ or "")
        return 2
    began, recording = time.monotonic(), recorded()
    write(recording, Path(arguments[0]))
    number = sum(map(len, recording.values()))
    sys.stdout.write(f"{number} answers in {time.monotonic() - began:.0f} s\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
