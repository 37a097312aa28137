"""Heads of requests: size limits, arrival in pieces, and empty lines before them."""

import json
import re
import socket

import pytest

from harness.service_process import running_service
from server.worker import LONGEST_HEADERS, MOST_HEADERS

LINE = b"GET /health HTTP/1.1\r\n"
HEALTH = LINE + b"Host: a\r\n\r\n"
CONFIGURE = (
    b"POST /configure HTTP/1.1\r\nHost: a\r\nX-Admin-API-Key: ops\r\nContent-Type: application/json\r\n"
    b'Content-Length: 23\r\n\r\n{"concurrent_limit": 7}'
)


@pytest.fixture(scope="module")
def service():
    with running_service(
        REPLICATE_SIMULATE=1, CONCURRENT_DOCKER_ADMIN_API_KEY="ops", PUBLIC_URL="https://here.example/below"
    ) as started:
        yield started


@pytest.fixture
def caller(service):
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as connection:
        yield connection


def answer(caller):
    """The status, the head and the body of the next answer."""
    with caller.makefile("rb", buffering=0) as stream:
        head = "".join(line.decode().lower() for line in iter(stream.readline, b"\r\n"))
        body = b""
        while len(body) < int(re.search("content-length: (.+)", head)[1]):
            body += stream.read(1)
    return int(head.split()[1]), head, json.loads(body)


def refused(caller):
    """The problem that a request with too many headers gets, the last of its connection."""
    status, head, problem = answer(caller)
    assert "connection: close" in head
    assert "content-type: application/problem+json" in head
    assert f"x-request-id: {problem['request_id']}" in head
    assert (431, 431, "headers_too_large", False) == (
        status,
        problem["status"],
        problem["code"],
        problem["retryable"],
    )
    assert b"" == caller.recv(1)
    return problem


def headers(size, count=1):
    """So many headers of so many bytes in all, beside the host."""
    left = size - len(b"Host: a\r\n")
    each = left // count
    sizes = [each] * (count - 1) + [left - each * (count - 1)]
    made = [b"X-%d: " % number + b"x" * size for number, size in enumerate(sizes)]
    return b"Host: a\r\n" + b"".join(
        line[: size - 2] + b"\r\n" for line, size in zip(made, sizes, strict=True)
    )


@pytest.mark.parametrize("count", [1, 2, 50, 500, MOST_HEADERS - 1])
def test_headers_of_32_kb_pass_and_a_byte_more_is_431(caller, count):
    for _ in range(2):  # the second on a kept-alive connection
        caller.sendall(LINE + headers(LONGEST_HEADERS, count) + b"\r\n")
        assert 200 == answer(caller)[0]

    caller.sendall(LINE + headers(LONGEST_HEADERS + 1, count) + b"\r\n")

    assert str(LONGEST_HEADERS) in refused(caller)["detail"]


@pytest.mark.parametrize(
    ("size", "end"),
    [
        (33_000, b"\r\n\r\n"),
        (40_000, b"\r\n\r\n"),
        (70_000, b"\r\n\r\n"),
        (41_100, b""),
        (70_000, b""),
        (2_000_000, b""),
    ],
)
def test_any_more_is_431_even_if_the_head_does_not_end(caller, size, end):
    caller.sendall(LINE + b"Host: a\r\nX-Long: " + b"x" * size + end)

    refused(caller)


@pytest.mark.parametrize("size", [4_200, 5_000, 20_000, 100_000])
def test_a_request_line_that_is_too_long_is_refused_with_the_limit(caller, size):
    caller.sendall(b"GET /generations?cursor=" + b"x" * size + b" HTTP/1.1\r\nHost: a\r\n\r\n")

    status, _, problem = answer(caller)

    detail = "request: may have at most 4094 bytes in its first line, with the URL"
    assert (400, "invalid_request", detail) == (status, problem["code"], problem["detail"])


def test_a_large_head_may_arrive_in_pieces(caller):
    head = LINE + headers(LONGEST_HEADERS, 7) + b"\r\n"
    for start in range(0, len(head), 5000):
        caller.sendall(head[start : start + 5000])

    assert 200 == answer(caller)[0]


def test_headers_of_a_thousand_lines_pass_and_one_more_is_431(caller):
    lines = b"Host: a\r\n" + b"X: 1\r\n" * (MOST_HEADERS - 1)
    caller.sendall(LINE + lines + b"\r\n")
    assert 200 == answer(caller)[0]

    caller.sendall(LINE + lines + b"X: 1\r\n\r\n")

    refused(caller)


def test_too_many_headers_are_431_whatever_the_method_and_the_body(caller):
    caller.sendall(CONFIGURE.replace(b"Host: a", b"Host: a\r\nX-Long: " + b"x" * 40_000))

    refused(caller)


def test_a_long_request_line_does_not_reduce_the_limit_of_the_headers(caller):
    caller.sendall(LINE.replace(b"/health", b"/health?" + b"x" * 4000) + headers(LONGEST_HEADERS) + b"\r\n")

    assert 200 == answer(caller)[0]


@pytest.mark.parametrize(
    ("size", "end"),
    [
        (5000, b" HTTP/1.1\r\nHost: a\r\n\r\n"),
        (40_000, b" HTTP/1.1\r\nHost: a\r\n\r\n"),
        (50_000, b" HTTP/1.1\r\nHost: a\r\n\r\n"),
        (50_000, b""),
    ],
)
def test_a_request_line_that_is_too_long_is_400(caller, size, end):
    caller.sendall(b"GET /" + b"x" * size + end)

    status, _, problem = answer(caller)
    assert (400, "invalid_request") == (status, problem["code"])


@pytest.mark.parametrize("before", [b"\r\n", b"\r\n\r\n", b"\r\n" * 10])
@pytest.mark.parametrize("request_", [HEALTH, CONFIGURE], ids=["get", "post"])
def test_empty_lines_before_a_request_are_skipped(caller, before, request_):
    for _ in range(3):  # the first of a connection, and later ones
        caller.sendall(before + request_)
        assert 200 == answer(caller)[0]


@pytest.mark.parametrize("request_", [HEALTH, CONFIGURE], ids=["get", "post"])
def test_an_empty_line_after_a_request_does_not_end_the_next_head(caller, request_):
    caller.sendall(request_ + b"\r\n" + request_ + b"\r\n")
    assert [200, 200] == [answer(caller)[0] for _ in range(2)]

    caller.sendall(request_)
    assert 200 == answer(caller)[0]


def test_an_empty_line_may_arrive_in_pieces(caller):
    caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for piece in (b"\r", b"\n", b"\r\n", b"GET", HEALTH.removeprefix(b"GET")):
        caller.sendall(piece)

    assert 200 == answer(caller)[0]


def test_empty_lines_alone_are_not_a_request(caller):
    caller.sendall(b"\r\n" * 50_000)
    caller.shutdown(socket.SHUT_WR)

    assert b"" == caller.recv(1)


TOO_LARGE = b"Host: a\r\nX-Long: " + b"x" * 33_000 + b"\r\n\r\n"


@pytest.mark.parametrize(
    "target",
    ["/v1/images/generations", "/v1", "/v1/models?a=/b", "/below/v1/models", "/%761/x", "http://a/v1/models"],
)
def test_headers_that_are_too_large_are_refused_in_openais_shape_below_its_door(caller, target):
    caller.sendall(f"POST {target} HTTP/1.1\r\n".encode() + TOO_LARGE)

    status, head, body = answer(caller)

    assert (431, "headers_too_large", "invalid_request_error") == (
        status,
        body["error"]["code"],
        body["error"]["type"],
    )
    assert "content-type: application/json" in head
    assert "x-request-id: req_" in head


def test_headers_that_are_too_large_are_refused_in_replicates_shape_below_its_door(caller):
    caller.sendall(b"POST /replicate/v1/predictions HTTP/1.1\r\n" + TOO_LARGE)

    status, head, body = answer(caller)

    assert {"title", "detail", "status", "code", "request_id"} == body.keys()
    assert (431, 431, "headers_too_large") == (status, body["status"], body["code"])
    assert f"x-request-id: {body['request_id']}" in head


@pytest.mark.parametrize(
    ("line", "more"),
    [
        (b"GET /v1/models?x=" + b"x" * 9000 + b" HTTP/1.1", b"Host: a\r\n"),
        (b"GET /v1/models HTTP/9.9", b"Host: a\r\n"),
        (b"GET /v1/models HTTP/1.1", b"Bad Header: 1\r\n"),
        (b"POST /v1/images/edits HTTP/1.1", b"Host: a\r\nTransfer-Encoding: nonsense\r\n"),
    ],
)
def test_a_request_that_cannot_be_parsed_is_refused_in_the_shape_of_its_door(caller, line, more):
    caller.sendall(line + b"\r\n" + more + b"\r\n")

    status, _, body = answer(caller)

    assert (400, "invalid_request", "request") == (status, body["error"]["code"], body["error"]["param"])


@pytest.mark.parametrize("target", ["/v1x", "/x/v1/models", "*", "//[v1/models", "http://[/v1"])
def test_headers_that_are_too_large_elsewhere_are_refused_with_a_problem_document(caller, target):
    caller.sendall(f"GET {target} HTTP/1.1\r\n".encode() + TOO_LARGE)

    refused(caller)
