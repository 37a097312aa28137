"""The OpenAPI document: valid, complete, and consistent with validation and with real responses."""

import base64
import copy
import json
import queue
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jsonschema_rs
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from replicate.webhook import Webhooks, WebhookSigningSecret

from api.openapi.document import schema_name
from errors import InvalidRequest
from errors.listing import every_error
from harness.service_process import until
from parsing.limits import parse_limits
from parsing.semaphores import parse_lease, parse_semaphore
from tests.support.callers import ADMIN, PICTURE, PNG, USER
from tests.support.declarations import MODELS, least, parse_batch, parse_generation
from tests.support.documented import CLOSED, DOCUMENT, conforms, described, validator
from tests.support.ndjson import lines, stream

SECRET = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
PARSERS = {
    "GenerationRequest": parse_generation,
    "BatchRequest": parse_batch,
    "Limits": parse_limits,
    "SemaphoreLimit": parse_semaphore,
    "LeaseTerms": parse_lease,
}

EXAMPLES = [model.as_json()["example"] for model in MODELS.values()]
FULL = [
    {
        name: schema["default"]
        for name, schema in model.input_schema["properties"].items()
        if "default" in schema
    }
    | least(model)
    | {"timeout": 60}
    for model in MODELS.values()
]
VALID = {
    "GenerationRequest": [
        *EXAMPLES,
        *FULL,
        PICTURE | {"image": "https://a.com/b", "seed": 1, "timeout": None},
        PICTURE | {"webhook": "https://a.com/b?c", "max_cost_usd": 0.5},
        PICTURE
        | {"webhook": " https://a.com/b c", "file_name": "console", "num_outputs": 2.0, "fallback": None},
        PICTURE | {"num_outputs": 1.0, "guidance": 3.0, "timeout": None, "placeholder": None},
        PICTURE | {"dry_run": True},
        PICTURE | {"preset": "portrait", "aspect_ratio": None},
        {"model_name": "sora-2", "prompt": "a", "preset": "landscape"},
        {"model_name": "hailuo-2.3", "prompt": "a", "preset": None},
        PICTURE | {"external_semaphore_id": "gpu"},
        PICTURE | {"dry_run": None, "seed": None},
        PICTURE | {"idempotency_key": None},
    ],
    "BatchRequest": [
        {"requests": EXAMPLES, "max_concurrent": 2},
        {"requests": FULL, "dry_run": False},
        {"requests": [PICTURE], "webhook": "https://a.com/b", "max_cost_usd": 3},
        {"requests": [PICTURE], "external_semaphore_id": "gpu"},
        {"requests": [PICTURE | {"idempotency_key": "a/1"}, PICTURE | {"idempotency_key": None}]},
        {"model_name": "flux-dev", "prompts": ["a"], "webhook": "HTTPS://a.com", "max_cost_usd": 0},
        {"model_name": "flux-2-pro", "prompts": ["a"], "preset": "square"},
        {"model_name": "flux-dev", "prompts": ["a", "b"], "guidance": 2.5, "max_concurrent": None},
        {"model_name": "flux-dev", "prompts": ["a"], "file_names": None, "dry_run": None, "go_fast": None},
        {"requests": [PICTURE | {"image": None, "seed": 3.0}], "max_concurrent": 2.0, "webhook": None},
        {
            "model_name": "kontext-max",
            "prompts": ["a"],
            "input_image": "https://a.com/b",
            "safety_tolerance": 2,
        },
    ],
    "Limits": [
        {"concurrent_limit": 1},
        {"requests_per_minute": 60_000},
        {"concurrent_limit": 1000, "requests_per_minute": 1},
        {"concurrent_limit": 5, "requests_per_minute": None},
        {"concurrent_limit": None},
    ],
    "SemaphoreLimit": [{"semaphore_id": "gpu-1.x_Y", "limit": 1}, {"semaphore_id": "0", "limit": 10_000.0}],
    "LeaseTerms": [{"ttl": 5}, {"ttl": 3600}, {"ttl": 7.5}],
}
KEYED = PICTURE | {"idempotency_key": "k"}
DATA = "data:image/png;base64," + base64.b64encode(PNG).decode()
STRANGE = [
    None, True, False, 0, -1, 1, 2, 3, 4, 7, 99, 10**9, 2**63, 0.5, 2.5, -0.1, "", " ", "\n", "a", "1", "3:2", "jpg",
    "webp", "a\0b", "https://a.com/b", "https://a/b", "http://a.com/b", "https://", "ftp://a/b", "/etc/passwd",
    "data:image/png;base64,iVBORw0KGgo=", "data:image/png;base64,AAAA", "data:image/png,AAAA", "CON", "nul.png",
    DATA, DATA.rstrip("="), DATA.replace("=", "%3D"), f" {DATA}\n", "https://a.com/b c", "https://ü.com/ä ", 28.0, 4.0,
    "flux-dev", "kontext-max", "qwen-image", "nope", [], ["a"], [""], [1], [PICTURE], [{}], {}, {"a": 1}, PICTURE,
]  # fmt: skip


UNSEEN = {"https://a/b", "data:image/png;base64,iVBORw0KGgo=", "data:image/png;base64,AAAA"}
"""What JSON Schema cannot see: that a host is not public, and that a content is no whole picture."""


def accepted(parse, body):
    try:
        parse(body)
    except InvalidRequest:
        return False
    return True


def mutations(body):
    """`body` with each field left out, each set to something strange, and one more."""
    for name in body:
        yield {other: value for other, value in body.items() if other != name}
        yield from (body | {name: strange} for strange in STRANGE)
    yield from (
        body | {extra: 1} for extra in ("unknown", "prompt", "prompts", "requests", "max_concurrent", "image")
    )
    yield body | {"idempotency_key": "a"}
    yield {}


def test_the_document_is_valid_openapi_3_1():
    OpenAPIV31SpecValidator(copy.deepcopy(DOCUMENT)).validate()
    for schema in DOCUMENT["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def test_every_route_is_in_the_document_and_nothing_else_is(app):
    served = {
        (re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule), method.lower())
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }

    documented = {(path, method) for path, methods in DOCUMENT["paths"].items() for method in methods}
    assert served == documented, "api/openapi/operations.py has every route"


def test_the_service_serves_the_document(client):
    assert json.loads(json.dumps(DOCUMENT)) == client.get("/openapi.json").json


def test_every_reference_resolves():
    names = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(DOCUMENT)))

    assert set() == names - set(DOCUMENT["components"]["schemas"])


def test_every_error_code_of_an_operation_is_listed_under_its_status():
    told = json.dumps(DOCUMENT["paths"])

    never_alone = {"not_found", "method_not_allowed"}
    assert [] == [
        error.code
        for error in every_error()
        if f"`{error.code}`" not in told and error.code not in never_alone
    ], "a route in api/openapi/operations.py answers with its status"


@pytest.mark.parametrize("name", VALID)
def test_the_schema_and_validation_accept_the_same_good_requests(name):
    for body in VALID[name]:
        assert accepted(PARSERS[name], body)
        assert [] == [error.message for error in validator(name).iter_errors(body)]


def test_the_schema_and_validation_accept_null_for_all_optional_fields():
    for full in FULL:
        body = dict.fromkeys(full) | least(MODELS[full["model_name"]])
        assert accepted(parse_generation, body)
        assert validator("GenerationRequest").is_valid(body)


@pytest.mark.slow
@pytest.mark.parametrize("name", VALID)
def test_the_schema_and_validation_agree_on_every_mutation_of_them(name):
    check = jsonschema_rs.Draft202012Validator(DOCUMENT | {"$ref": f"#/components/schemas/{name}"})
    differ = [
        body
        for good in VALID[name]
        for body in mutations(good)
        if accepted(PARSERS[name], body) is not check.is_valid(body)
    ]

    assert [] == [
        body for body in differ if not any(each in UNSEEN for each in body.values() if isinstance(each, str))
    ]


def test_the_schema_and_validation_agree_on_each_parameter_alone():
    for model in MODELS.values():
        check = validator(schema_name(model))
        for parameter in model.input_schema["properties"]:
            for strange in STRANGE:
                body = least(model) | {parameter: strange}
                if not (isinstance(strange, str) and strange in UNSEEN):
                    assert accepted(parse_generation, body) is check.is_valid(body), body


def test_real_responses_match_the_document_exactly(client, simulator):
    mixed = {"model_name": "flux-dev", "prompts": ["a", "[[fail]]", "[[nsfw]]"]}
    request = [
        ("/generate", PICTURE, ADMIN),
        ("/generate", PICTURE | {"prompt": "[[nsfw]]"}, ADMIN),
        ("/generate", {"model_name": "imagen-4-ultra", "prompt": "a", "preset": "square"}, ADMIN),
        ("/generate", {"model_name": "imagen-4-ultra", "prompt": "a", "dry_run": True}, ADMIN),
        ("/generate", PICTURE | {"prompt": "[[fail]]"}, ADMIN),
        (
            "/generate",
            PICTURE | {"prompt": "[[fail]]", "placeholder": True, "fallback": ["qwen-image"]},
            ADMIN,
        ),
        ("/generate", PICTURE | {"guidance": 99, "x": None}, ADMIN),
        ("/generate", PICTURE | {"max_cost_usd": 0.01}, ADMIN),
        ("/generate", PICTURE | {"dry_run": True}, ADMIN),
        ("/generate-batch", {"requests": [KEYED]}, ADMIN),
        ("/generate-batch", {"requests": [KEYED, PICTURE]}, ADMIN),
        ("/generate-batch", {"requests": [KEYED, PICTURE], "dry_run": True}, ADMIN),
        ("/generate-batch", {"requests": [PICTURE | {"seed": 1, "idempotency_key": "k"}]}, ADMIN),
        (
            "/generate",
            PICTURE
            | {
                "image": "https://a.com/b",
                "model_name": "qwen-image",
                "seed": 1,
                "go_fast": True,
                "dry_run": True,
                "fallback": ["kontext-max"],
            },
            ADMIN,
        ),
        ("/generate", PICTURE, {}),
        ("/generate", PICTURE, ADMIN | {"Idempotency-Key": "a key"}),
        ("/generate-batch", mixed, ADMIN),
        ("/generate-batch", mixed | {"dry_run": True}, ADMIN),
        ("/generate-batch", mixed | {"max_cost_usd": 0.01}, ADMIN),
        ("/generate-batch", {"requests": [PICTURE]}, ADMIN),
        ("/generate-batch", {"requests": [3]}, ADMIN),
        ("/generate-batch", mixed, {}),
        ("/configure", {"concurrent_limit": 3}, ADMIN),
        ("/configure", {"concurrent_limit": 0}, ADMIN),
        ("/configure", {"concurrent_limit": 3}, USER),
        ("/configure", {"concurrent_limit": 3}, {}),
    ]
    for path, body, headers in request:
        conforms(client.post(path, json=body, headers=headers), path)
        conforms(client.post(path, data="x", headers=ADMIN), path)
        conforms(client.post(path, data=b"{", content_type="application/json", headers=ADMIN), path)
    for path in ("/", "/models", "/status", "/health", "/health/live", "/health/ready"):
        conforms(client.get(path), path, "get")
    conforms(client.get("/status", headers=ADMIN), "/status", "get")
    conforms(client.get("/openapi.json"), "/openapi.json", "get", DOCUMENT)
    for account in ({"reject": True}, {"credit": "empty"}):
        simulator.account("r8_user", **account)
        conforms(client.post("/generate", json=PICTURE, headers=USER), "/generate")
        conforms(client.post("/generate-batch", json=mixed, headers=USER), "/generate-batch")


def test_answers_about_semaphores_match_the_document(client):
    def request(method, path, route, **how):
        answer = getattr(client, method)(path, headers=ADMIN, **how)
        if answer.status_code == 204:
            assert (b"", True) == (answer.data, "204" in DOCUMENT["paths"][route][method]["responses"])
        else:
            conforms(answer, route, method)
        return answer

    one, leases = "/_admin/semaphores/{semaphore}", "/semaphores/{semaphore}/leases"
    for limit in (1, 0):
        request(
            "post", "/_admin/semaphores", "/_admin/semaphores", json={"semaphore_id": "gpu", "limit": limit}
        )
    taken = request("post", "/semaphores/gpu/leases", leases, json={"ttl": 60}).json["lease_id"]
    for name, ttl in (("gpu", 60), ("gpu", 1), ("db", 60)):
        request("post", f"/semaphores/{name}/leases", leases, json={"ttl": ttl})
    work = client.post(
        "/generate",
        json=PICTURE | {"prompt": "[[hang]]", "external_semaphore_id": "gpu"},
        headers=ADMIN | {"Prefer": "respond-async"},
    )
    conforms(work, "/generate")
    request("get", "/_admin/semaphores", "/_admin/semaphores")
    request("delete", "/_admin/semaphores/gpu", one)
    for lease_id in (taken, "x"):
        path = f"/semaphores/gpu/leases/{lease_id}"
        request("post", f"{path}/renew", f"{leases}/{{lease_id}}/renew")
        request("delete", path, f"{leases}/{{lease_id}}")
    client.delete(work.headers["Location"], headers=ADMIN)
    until(lambda: client.delete("/_admin/semaphores/gpu", headers=ADMIN).status_code == 204)
    request("delete", "/_admin/semaphores/gpu", one)
    conforms(client.get("/_admin/semaphores", headers=USER), "/_admin/semaphores", "get")


def test_waiting_running_and_ended_work_matches_the_document(client):
    client.post("/configure", json={"concurrent_limit": 1}, headers=ADMIN)
    later = ADMIN | {"Prefer": "respond-async", "Idempotency-Key": "the-key"}
    running = conforms(
        client.post("/generate", json=PICTURE | {"prompt": "[[hang]]"}, headers=later), "/generate"
    )
    conflict = conforms(client.post("/generate", json=PICTURE, headers=later), "/generate")
    waiting = conforms(
        client.post("/generate", json=PICTURE, headers=ADMIN | {"Prefer": "wait=0"}), "/generate"
    )
    batch = conforms(
        client.post(
            "/generate-batch",
            json={"model_name": "flux-dev", "prompts": ["a", "[[nsfw]]"], "webhook": "https://a.invalid/b"},
            headers=ADMIN | {"Prefer": "respond-async"},
        ),
        "/generate-batch",
    )
    taken = (running, waiting, batch)

    assert [202, 409, 202, 202] == [each.status_code for each in (running, conflict, waiting, batch)]
    assert ["respond-async", "wait=0", "respond-async"] == [
        each.headers["Preference-Applied"] for each in taken
    ]
    assert ({"place", "estimated_seconds"}, "queued") == (
        {"place", "estimated_seconds"} & waiting.json.keys(),
        waiting.json["status"],
    )
    for answer in taken:
        where = "/batches/{target}" if answer is batch else "/generations/{target}"
        conforms(client.get(answer.headers["Location"], headers=ADMIN), where, "get")
    conforms(client.delete(running.headers["Location"], headers=ADMIN), "/generations/{target}", "delete")
    again = client.get(f"{waiting.headers['Location']}/events", headers=ADMIN)
    assert "done" == told(again)[-1]["event"]
    finished(client, batch.headers["Location"])
    for answer in taken:
        where = "/batches/{target}" if answer is batch else "/generations/{target}"
        for method in ("get", "delete"):
            conforms(
                client.open(answer.headers["Location"], method=method.upper(), headers=ADMIN), where, method
            )
            conforms(
                client.open(answer.headers["Location"], method=method.upper(), headers=USER), where, method
            )
            conforms(client.open(answer.headers["Location"], method=method.upper()), where, method)


def finished(client, location):
    """Wait for the end of a batch by the events of all that is in it."""
    for each in client.get("/generations", headers=ADMIN).json["generations"]:
        if location.endswith(each.get("batch_id", "?")):
            told(client.get(f"/generations/{each['id']}/events", headers=ADMIN))


def told(answer):
    """The events of a stream that has ended."""
    assert "text/event-stream" in described(answer, "/generations/{target}/events", "get")
    parts = [part for part in answer.get_data(as_text=True).split("\n\n") if part.startswith("event: ")]
    events = [re.fullmatch(r"event: (\w+)\ndata: (.+)", part).groups() for part in parts]
    return [{"event": name, "data": json.loads(data)} for name, data in events]


def test_events_match_the_document(client, simulator):
    later = ADMIN | {"Prefer": "respond-async"}
    slow = client.post("/generate", json=PICTURE | {"prompt": "[[hang]]"}, headers=later)
    failing = client.post("/generate", json=PICTURE | {"prompt": "[[nsfw]]"}, headers=later)
    path = "/generations/{target}/events"

    def until_progress(chunks):
        for chunk in chunks:
            yield chunk
            if b"event: progress" in chunk:
                simulator.finish()

    names = set()
    for location in [each.headers["Location"] for each in (slow, failing, slow)]:
        answer = client.get(f"{location}/events", headers=ADMIN)
        answer.response = until_progress(answer.response)
        events = told(answer)
        names |= {event["event"] for event in events}
        assert ["queued", "done"] == [events[0]["event"], events[-1]["event"]]
        for event in events:
            assert [] == [error.message for error in validator("Event", CLOSED).iter_errors(event)]
    assert {"queued", "running", "progress", "done"} == names
    conforms(client.get(f"{location}/events", headers=USER), path, "get")
    conforms(client.get(f"{location}/events"), path, "get")


def test_lists_and_usage_match_the_document(client):
    client.post(
        "/generate-batch", json={"model_name": "flux-dev", "prompts": ["a", "[[nsfw]]"]}, headers=ADMIN
    )
    client.post(
        "/generate", json=PICTURE | {"prompt": "[[hang]]"}, headers=ADMIN | {"Prefer": "respond-async"}
    )

    first = conforms(client.get("/generations?limit=2", headers=ADMIN), "/generations", "get")
    rest = f"/generations?cursor={first.json['next_cursor']}"
    conforms(client.get(rest, headers=ADMIN), "/generations", "get")
    for group in ("", *(f"&group_by={each}" for each in ("model", "caller", "day,key", "tag:a,metadata:b"))):
        conforms(client.get(f"/usage?since=2020-01-01{group}", headers=ADMIN), "/usage", "get")
    for path in ("/generations", "/usage"):
        conforms(client.get(f"{path}?since=never&x=1", headers=ADMIN), path, "get")
        conforms(client.get(path), path, "get")


def test_only_documented_query_parameters_are_accepted(client):
    for path in ("/generations", "/batches", "/usage", "/models"):
        parameters = DOCUMENT["paths"][path]["get"]["parameters"]
        given = {
            "since": "2026-01-01",
            "until": "5",
            "model": "flux-dev",
            "limit": 1,
            "cursor": "AAAAAAAAAAE",
            "search": "flux",
            "key": "*",
            "batch": "batch_1",
            "prompt": "fox",
            "metadata.{name}": "shop",
            "group_by": "key,tag:team",
        }
        for each in parameters:
            if each["in"] == "query":
                choices = each["schema"].get("enum") or each["schema"].get("items", {}).get("enum")
                if path == "/batches" and each["name"] == "cursor":
                    continue  # an earlier page's, which names a place
                for value in choices or [given[each["name"]]]:
                    answer = client.get(path, query_string={each["name"]: value}, headers=ADMIN)
                    assert 200 == answer.status_code, (path, each["name"], value)


def test_responses_to_replicates_webhooks_match_the_document(client):
    made = client.post("/generate", json=PICTURE, headers=ADMIN).json
    path = "/webhooks/replicate"

    unknown = client.post(f"{path}?generation=gen_0&attempt=1", json={})
    assert (204, b"") == (unknown.status_code, unknown.data)
    assert {} == described(unknown, path)
    unsigned = client.post(f"{path}?generation={made['id']}&attempt=1", json={"id": made["prediction_id"]})
    assert 401 == conforms(unsigned, path).status_code


def test_webhook_deliveries_match_the_document(make_app):
    client = make_app(REPLICATE_SIMULATE=1, WEBHOOK_SECRET=SECRET).test_client()
    batch = {"model_name": "flux-dev", "prompts": ["a", "[[nsfw]]"]}
    for path, body in (("/generate", PICTURE), ("/generate-batch", batch)):
        with receiver() as (url, heard):
            client.post(path, json=body | {"webhook": url}, headers=ADMIN)
            headers, content = heard.get(timeout=10)
        (called,) = DOCUMENT["paths"][path]["post"]["callbacks"]["ended"].values()
        schema = called["post"]["requestBody"]["content"][headers["content-type"]]["schema"]

        assert {each["name"] for each in called["post"]["parameters"]} <= headers.keys()
        name = schema["$ref"].rsplit("/", 1)[1]
        assert [] == [error.message for error in validator(name, CLOSED).iter_errors(json.loads(content))]
        key = WebhookSigningSecret(key=SECRET)
        Webhooks.validate(headers=headers, body=content.decode(), secret=key, tolerance=60)


@contextmanager
def receiver():
    """An address on this machine, and what is posted to it: headers and body."""
    heard = queue.SimpleQueue()

    class ReceivedRequest(BaseHTTPRequestHandler):
        def do_POST(self):
            length = int(self.headers["Content-Length"])
            heard.put(
                ({name.lower(): value for name, value in self.headers.items()}, self.rfile.read(length))
            )
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), ReceivedRequest) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/hook", heard
        finally:
            server.shutdown()
            thread.join()


def test_the_lines_of_a_stream_match_the_document(client):
    *results, summary = lines(stream(client, ADMIN, "a", "[[nsfw]]", "[[fail]]"))

    assert 3 == len(results)
    for result in results:
        assert validator("BatchItem", CLOSED).is_valid(result)
    assert validator("BatchSummary", CLOSED).is_valid(summary)


def test_responses_of_a_draining_service_match_the_document(app):
    app.extensions["service"].begin_drain(0)
    client = app.test_client()

    conforms(client.get("/health"), "/health", "get")
    conforms(client.get("/health/ready"), "/health/ready", "get")
    conforms(client.post("/generate", json=PICTURE, headers=ADMIN), "/generate")
    conforms(client.post("/generate-batch", json=PICTURE, headers=ADMIN), "/generate-batch")


def test_responses_for_interrupted_work_match_the_document(app):
    client, service = app.test_client(), app.extensions["service"]
    hangs = {"prompt": "[[hang]]"}
    with ThreadPoolExecutor() as callers:
        single = callers.submit(client.post, "/generate", json=PICTURE | hangs, headers=ADMIN)
        batch = callers.submit(
            app.test_client().post, "/generate-batch", json={"requests": [PICTURE | hangs]}, headers=ADMIN
        )
        while not (single.done() or batch.done()) and running(client) < 2:
            pass
        service.begin_drain(0)

    for answer, path in ((single.result(), "/generate"), (batch.result(), "/generate-batch")):
        assert (503, "false") == (answer.status_code, answer.headers["x-should-retry"])
        assert conforms(answer, path).json["id"]


def running(client):
    return client.get("/status").json["concurrency"]["current_concurrent"]


def test_responses_without_a_ledger_match_the_document(make_app, tmp_path):
    client = make_app(DATABASE_URL=f"sqlite:///{tmp_path}").test_client()

    answers = [
        conforms(client.get("/health"), "/health", "get"),
        conforms(client.post("/configure", json={"concurrent_limit": 3}, headers=ADMIN), "/configure"),
        conforms(client.post("/generate", json=PICTURE, headers=ADMIN), "/generate"),
        conforms(
            client.post("/generate-batch", json={"requests": [PICTURE]}, headers=ADMIN), "/generate-batch"
        ),
        conforms(client.get("/generations", headers=ADMIN), "/generations", "get"),
        conforms(client.get("/generations/gen_0", headers=ADMIN), "/generations/{target}", "get"),
        conforms(client.get("/usage", headers=ADMIN), "/usage", "get"),
    ]
    assert [(500, "internal")] * 7 == [(each.status_code, each.json["code"]) for each in answers]
    assert "starting" == conforms(client.get("/health/ready"), "/health/ready", "get").json["code"]


def test_the_page_loads_no_code_from_other_hosts(client):
    answer = client.get("/docs")
    page, policy = answer.get_data(as_text=True), answer.headers["Content-Security-Policy"]

    addresses = re.findall(r"""(?:src|href|action|url|import)\s*[=(]\s*["']?([^"')\s>]+)""", page)
    assert [] == [each for each in addresses if re.match(r"(?i)\w+://|//", each)]
    assert [] == re.findall(r"(?i)<[^>]+\son\w+\s*=", page)
    assert [] == re.findall(r"(?i)<[^>]+\sstyle\s*=", page)
    assert "innerHTML" not in page
    (nonce,) = set(re.findall(r'nonce="([^"]+)"', page))
    assert f"script-src 'nonce-{nonce}'" in policy
    assert f"style-src 'nonce-{nonce}'" in policy
    assert "default-src 'none'" in policy
    assert len(re.findall(r"<script|<style", page)) == page.count("nonce=")
    assert "unsafe" not in policy


def test_the_type_of_every_error_links_to_its_row_on_the_page(client):
    page = client.get("/docs").get_data(as_text=True)

    assert [] == [error.code for error in every_error() if f'id="{error.code}"' not in page]


def test_no_two_pages_share_a_nonce(client):
    assert (
        client.get("/docs").headers["Content-Security-Policy"]
        != client.get("/docs").headers["Content-Security-Policy"]
    )


def test_the_page_requests_only_existing_routes(client):
    page = client.get("/docs").get_data(as_text=True)

    for address in set(re.findall(r'href="(/[^"]*)"', page)):
        assert 200 == client.get(address).status_code
