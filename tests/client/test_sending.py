"""One request until it is answered: what is sent again, when, and with which key."""

import pickle
import ssl

import httpx
import pytest
from replicate_concurrent import (
    ApiError,
    BadAnswer,
    ConfigError,
    ConnectionLost,
    InvalidRequest,
    QueueFull,
    TimedOut,
    errors,
)
from replicate_concurrent.operations import batches, generating, looking
from replicate_concurrent.operations.generating import Order

from tests.support.scripted_service import ScriptedService, answer, problem

ORDER = Order({"model_name": "flux-dev", "prompt": "A fox"})
MADE = answer(
    200, {"id": "gen_1", "status": "succeeded", "success": True, "files": ["http://service.test/a.jpg"]}
)


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def scripted(request):
    return lambda *answers, **settings: ScriptedService(answers, on_asyncio=request.param, **settings)


def generate(service, order=ORDER):
    return service.run(generating.generate(service.service, order))


def test_each_post_has_a_key_of_its_own_which_its_repetitions_keep(scripted):
    service = scripted(httpx.ReadError("lost"), httpx.RemoteProtocolError("closed"), MADE)

    generate(service)
    generate(service)

    keys = [each.headers["idempotency-key"] for each in service.requests]
    assert keys[0] == keys[1] == keys[2] != keys[3]
    assert {"rcg-"} == {each[:4] for each in keys}


def test_the_key_of_the_caller_is_sent(scripted):
    service = scripted(MADE)

    generate(service, Order(ORDER.body, "fox-1"))

    assert "fox-1" == service.requests[0].headers["idempotency-key"]


@pytest.mark.parametrize("key", ["", "two words", "é", "x" * 256, "a\r\nX: y"])
def test_a_key_that_no_header_can_have_is_refused(key):
    with pytest.raises(ValueError, match="visible ASCII"):
        Order(ORDER.body, key)


def test_an_error_survives_a_process_pool(scripted):
    with pytest.raises(InvalidRequest) as refused:
        generate(scripted(problem(400, "invalid_request", errors=[{"field": "seed", "message": "must be"}])))

    again = pickle.loads(pickle.dumps(refused.value))

    assert (InvalidRequest, "req_1", 400, "seed") == (
        type(again), again.request_id, again.status, again.fields[0].field,
    )  # fmt: skip


def test_retry_after_is_obeyed(scripted):
    service = scripted(
        problem(429, "queue_full", retryable=True, headers={"Retry-After": "7"}),
        problem(503, "shutting_down", retryable=True, headers={"Retry-After": "5"}),
        MADE,
    )

    assert "gen_1" == generate(service).id
    assert [7.0, 5.0] == service.pauses


def test_pauses_grow_where_the_service_names_none(scripted):
    service = scripted(*[httpx.ReadError("lost")] * 4, MADE)

    generate(service)

    assert [0.125, 0.25, 0.5, 1.0] == service.pauses


def test_a_request_that_may_not_wait_for_a_thread_waits_by_looking(scripted):
    service = scripted(problem(429, "queue_full", retryable=True, headers={"Retry-After": "1"}), MADE)

    generate(service)

    assert ["wait=20", "respond-async"] == [each.headers["prefer"] for each in service.requests]


def test_no_pause_goes_beyond_the_timeout(scripted):
    service = scripted(problem(429, "queue_full", retryable=True, headers={"Retry-After": "60"}), timeout=150)

    with pytest.raises(QueueFull):
        generate(service)

    assert [60.0, 60.0] == service.pauses


@pytest.mark.parametrize("digits", [10, 400, 5000])
def test_a_pause_that_no_call_has_ends_it_at_once(scripted, digits):
    endless = {"Retry-After": "1" + "0" * (digits - 1)}
    service = scripted(problem(429, "queue_full", retryable=True, headers=endless))

    with pytest.raises(QueueFull):
        generate(service)

    assert [] == service.pauses


def test_x_should_retry_is_obeyed(scripted):
    service = scripted(
        problem(500, "upstream_error", retryable=True, headers={"x-should-retry": "false"}), MADE
    )

    with pytest.raises(ApiError, match="upstream_error"):
        generate(service)
    assert 1 == len(service.requests)


def test_a_failure_that_has_an_id_is_not_sent_again_and_has_it(scripted):
    service = scripted(problem(500, "generation_failed", retryable=True, id="gen_7"), MADE)

    with pytest.raises(errors.GenerationFailed) as failed:
        generate(service)

    assert ("gen_7", "req_1", 500, True) == (
        failed.value.id, failed.value.request_id, failed.value.status, failed.value.retryable,
    )  # fmt: skip
    assert 1 == len(service.requests)


def test_work_that_the_next_process_continues_is_looked_up(scripted):
    handed_over = problem(
        503, "shutting_down", retryable=True, id="gen_1", headers={"x-should-retry": "false"}
    )
    service = scripted(
        handed_over, problem(503, "starting", retryable=True, headers={"Retry-After": "2"}), MADE
    )

    assert "gen_1" == generate(service).id
    assert ["POST /generate", "GET /generations/gen_1", "GET /generations/gen_1"] == service.paths()


def test_a_ledger_that_is_down_is_waited_for(scripted):
    service = scripted(problem(500, "internal", retryable=True), MADE)

    assert "gen_1" == generate(service).id


def test_all_invalid_fields_are_named(scripted):
    fields = [{"field": "seed", "message": "must be an integer"}, {"field": "x", "message": "is not known"}]
    service = scripted(problem(400, "invalid_request", errors=fields))

    with pytest.raises(InvalidRequest, match=r"seed: must be an integer\n  x: is not known") as refused:
        generate(service)

    assert ["seed", "x"] == [each.field for each in refused.value.fields]


def test_a_code_of_a_newer_service_is_an_api_error(scripted):
    with pytest.raises(ApiError) as refused:
        generate(scripted(problem(418, "teapot")))

    assert "teapot" == refused.value.code


@pytest.mark.parametrize("path", ["/keys", "/keys/key_1/rotate", "/generate-batch", "/v1/images/generations"])
def test_a_post_is_sent_again_with_its_key_after_a_lost_answer(scripted, path):
    service = scripted(httpx.ReadError("lost"), answer(201))

    service.run(looking.request(service.service, "POST", path, json={}))

    assert 1 == len({each.headers["idempotency-key"] for each in service.requests})
    assert 2 == len(service.requests)


def test_a_post_of_replicates_api_is_sent_once_since_that_has_no_keys(scripted):
    service = scripted(httpx.ReadError("lost"), answer(201))

    with pytest.raises(ConnectionLost):
        service.run(looking.request(service.service, "POST", "/replicate/v1/predictions", json={}))

    assert 1 == len(service.requests)


def test_a_post_that_was_never_sent_is_sent_again(scripted):
    service = scripted(httpx.ConnectError("refused"), answer(201))

    assert 201 == service.run(looking.request(service.service, "POST", "/replicate/v1/files")).status_code


def test_an_address_that_never_answers_is_called_for_the_timeout_of_the_client(scripted):
    service = scripted(httpx.ConnectError("refused"), timeout=60)

    with pytest.raises(ConnectionLost):
        generate(service)

    assert 50.0 < sum(service.pauses) <= 60.0


def test_a_service_that_starts_later_than_its_client_is_reached(scripted):
    assert "gen_1" == generate(scripted(*[httpx.ConnectError("refused")] * 20, MADE)).id


def test_a_shorter_time_may_be_set_for_an_address_that_never_answers(scripted):
    service = scripted(httpx.ConnectError("refused"), connect_timeout=10)
    with pytest.raises(ConnectionLost):
        generate(service)
    assert 10.0 >= sum(service.pauses)

    restarting = scripted(
        answer(202, {"id": "gen_1", "status": "running"}),
        *[httpx.ConnectError("x")] * 20,
        MADE,
        connect_timeout=10,
    )
    assert "gen_1" == generate(restarting).id
    assert 60.0 < sum(restarting.pauses)


@pytest.mark.parametrize("timeout", [0.5, 5, 30, 600])
def test_a_service_that_hangs_takes_no_more_than_the_timeout(scripted, timeout):
    service = scripted(MADE, timeout=timeout)
    service.answers = [service.hang]

    with pytest.raises(ConnectionLost):
        generate(service)

    assert timeout / 2 < service.time - 1000.0 <= timeout + 0.1


@pytest.mark.parametrize("timeout", [5, 90])
def test_work_at_a_service_that_hangs_meanwhile_is_named_when_the_timeout_is_over(scripted, timeout):
    running = answer(202, {"id": "gen_9", "status": "running"})
    service = scripted(running, timeout=timeout)
    service.answers = [running] * 3 + [service.hang]

    with pytest.raises(TimedOut) as over:
        generate(service)

    assert "gen_9" == over.value.id
    assert service.time - 1000.0 <= timeout + 0.1


def test_a_wait_for_a_batch_takes_no_more_than_its_timeout(scripted):
    service = scripted(MADE)
    service.answers = [answer(200, {"id": "batch_1", "status": "running"}), service.hang]

    with pytest.raises(TimedOut) as over:
        service.run(batches.wait(service.service, "batch_1", timeout=3))

    assert "batch_1" == over.value.id
    assert service.time - 1000.0 <= 3.1


def test_a_request_prefers_an_answer_before_the_timeout(scripted):
    service = scripted(MADE, timeout=8)

    generate(service)

    assert "wait=4" == service.requests[0].headers["prefer"]


def test_a_certificate_that_is_not_trusted_is_no_lost_connection(scripted):
    error = httpx.ConnectError("self-signed certificate")
    error.__cause__ = ssl.SSLCertVerificationError("self-signed certificate")

    with pytest.raises(ConfigError, match="SSL_CERT_FILE"):
        generate(scripted(error))


def test_an_id_is_one_part_of_a_path(scripted):
    service = scripted(MADE)

    service.run(generating.look(service.service, "../keys?x=1"))

    assert b"/generations/..%2Fkeys%3Fx%3D1" == service.requests[0].url.raw_path


def test_no_redirect_takes_the_key_elsewhere(scripted):
    service = scripted(answer(302, location="https://elsewhere.test/generate"))

    with pytest.raises(BadAnswer, match="redirects"):
        generate(service)

    assert ["service.test"] == [each.url.host for each in service.requests]


def test_a_redirect_without_an_address_is_no_answer(scripted):
    with pytest.raises(BadAnswer, match="redirects to no address"):
        generate(scripted(answer(302)))


@pytest.mark.parametrize("text", ["<html>", "[1]", '{"id": ', "[" * 100_000, "{}", '{"id": 5}', '{"id": ""}'])
def test_an_answer_of_another_program_is_named(scripted, text):
    with pytest.raises(BadAnswer, match="Is the address right"):
        generate(scripted(httpx.Response(200, text=text)))


def test_a_batch_without_an_id_is_not_looked_for(scripted):
    service = scripted(answer(200, {}))

    with pytest.raises(BadAnswer):
        service.run(batches.run(service.service, Order({"requests": []}, path="/generate-batch")))

    assert 1 == len(service.requests)


def test_a_502_of_a_proxy_is_sent_again(scripted):
    assert "gen_1" == generate(scripted(httpx.Response(502, text="Bad Gateway"), MADE)).id


def test_work_that_does_not_end_in_time_goes_on_under_its_id(scripted):
    service = scripted(answer(202, {"id": "gen_9", "status": "running"}), timeout=30)

    with pytest.raises(TimedOut) as late:
        generate(service)

    assert "gen_9" == late.value.id
    assert 30.0 == pytest.approx(sum(service.pauses))
