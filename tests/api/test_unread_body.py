"""A response that leaves a body unread closes the connection. Any other keeps it."""

import json
import socket
from contextlib import closing
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.test import encode_multipart

from harness.service_process import running_service
from server.unread_body import CloseUnread
from tests.support.callers import ADMIN, ADMIN_KEY, PICTURE, USER

JSON = {"Content-Type": "application/json"}
BODY = json.dumps(PICTURE).encode()

UNREAD = [
    ("POST", "/generate", JSON),  # no key
    ("POST", "/generate", JSON | {"X-Admin-API-Key": "wrong"}),
    ("POST", "/generate", USER | {"Content-Type": "text/plain"}),
    ("POST", "/generate", USER | JSON | {"Content-Encoding": "gzip"}),
    ("POST", "/generate", USER | JSON | {"Idempotency-Key": "a b"}),
    ("POST", "/generate", ADMIN | {"Content-Type": "multipart/form-data"}),
    ("POST", "/generate-batch", JSON),
    ("POST", "/configure", USER | JSON),
    ("PUT", "/generate", USER | JSON),
    ("OPTIONS", "/generate", {}),
    ("POST", "/nothing-here", USER | JSON),
    ("GET", "/nothing-here", USER),
    ("GET", "/generations/gen_unknown", USER),
    ("GET", "/generations/gen_unknown/events", USER),
    ("DELETE", "/batches/batch_unknown", USER),
    ("GET", "/generations", {}),
    ("GET", "/usage", USER),
    ("GET", "/files/gen_unknown/0.webp", {}),
    ("POST", "/webhooks/replicate?generation=gen_unknown", {}),
    ("GET", "/health", {}),
    ("GET", "/status", {}),
    ("GET", "/models?kind=none", {}),
    ("GET", "/docs", {}),
]


def connection(client, method, path, headers, *, chunked=False, body=BODY):
    environ = {"wsgi.input_terminated": True} if chunked else {}
    more = {"Transfer-Encoding": "chunked"} if chunked else {"Content-Length": str(len(body))}
    answer = client.open(
        path, method=method, headers=headers | more, input_stream=BytesIO(body), environ_overrides=environ
    )
    return answer.headers.get("Connection")


@pytest.mark.parametrize("chunked", [False, True])
def test_every_response_that_leaves_a_body_unread_closes_the_connection(client, chunked):
    for method, path, headers in UNREAD:
        assert "close" == connection(client, method, path, headers, chunked=chunked), (method, path)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large_is_left_unread(make_app, chunked):
    client = make_app(MAX_BODY_BYTES=1024, MAX_UPLOAD_BYTES=1024).test_client()
    boundary, form = encode_multipart({"prompt": 3000 * "a"})
    kind = {"Content-Type": f"multipart/form-data; boundary={boundary}"}

    for headers, body in ((JSON, BODY.ljust(3000)), (kind, form)):
        at = ("POST", "/generate", USER | headers)
        assert "close" == connection(client, *at, chunked=chunked, body=body)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_response_to_a_body_that_was_read_keeps_the_connection(client, chunked):
    for body in (BODY, b"not JSON", b'{"model_name": "unknown", "prompt": "a"}'):
        at = ("POST", "/generate", USER | JSON)
        assert connection(client, *at, chunked=chunked, body=body) is None
    boundary, form = encode_multipart({"prompt": "a", "model_name": "flux-dev"})
    kind = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    assert connection(client, "POST", "/generate", USER | kind, chunked=chunked, body=form) is None
    assert client.get("/health").headers.get("Connection") is None


@given(
    st.binary(max_size=40),
    st.booleans(),
    st.lists(st.tuples(st.sampled_from(["read", "readline"]), st.integers(-1, 15)), max_size=12),
)
def test_a_body_counts_as_read_exactly_when_its_end_was_reached(content, has_length, reads):
    stream, answered = BytesIO(content), []

    def application(environ, start_response):
        ended = False
        for name, size in reads:
            ended |= not getattr(environ["wsgi.input"], name)(size) and size != 0
        start_response("200 OK", [])
        answered.append(ended)
        return []

    environ = {"CONTENT_LENGTH": str(len(content))} if has_length else {"HTTP_TRANSFER_ENCODING": "chunked"}
    headers = []
    CloseUnread(application)(environ | {"wsgi.input": stream}, lambda _, given: headers.extend(given))

    is_read = stream.tell() == len(content) if has_length else answered[0]
    assert ([] if is_read else [("Connection", "close")]) == headers


@pytest.mark.slow
def test_the_server_closes_such_connections_and_no_others(tmp_path):
    chunked = b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"  # more would come
    length = b"Content-Length: 1000000\r\n\r\nhello"
    whole = b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    key = f"X-Admin-API-Key: {ADMIN_KEY}\r\n".encode()
    with running_service(
        DATA_DIR=tmp_path, CONCURRENT_DOCKER_ADMIN_API_KEY=ADMIN_KEY, REPLICATE_API_TOKEN="r8_a"
    ) as service:

        def answer(head, rest):
            with closing(socket.create_connection(("127.0.0.1", service.port))) as caller:
                caller.sendall(head + b" HTTP/1.1\r\nHost: a\r\n" + rest)
                said = b""
                while b"\r\n\r\n" not in said:
                    said += caller.recv(65536)
                return said.split(b"\r\n\r\n")[0].lower()

        for head in (b"POST /generate", b"POST /configure", b"GET /generations", b"POST /nothing-here"):
            for rest in (chunked, length):
                assert b"\r\nconnection: close" in answer(head, rest), (head, rest)
        refused = answer(b"POST /generate", key + whole)
        assert b" 400 " in refused
        assert b"\r\nconnection: keep-alive" in refused
