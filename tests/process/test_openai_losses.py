"""Calls of the OpenAI door that lose their connection, their process, or the patience of their client."""

import json
import signal
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import openai
import psycopg
import pytest
import requests

from harness.service_process import read_response, running_service, until
from tests.support.callers import ADMIN_KEY, SERVER_TOKEN
from tests.support.openai_retries import FIRST, RETRY, listed

pytestmark = [pytest.mark.slow, pytest.mark.every_database]

BODY = {"model": "flux-dev", "prompt": "[[slow=1.5]] A lighthouse"}
SLOW = BODY | {"prompt": "[[slow=4]] A lighthouse"}
SLOWEST = BODY | {"prompt": "[[slow=6]] A lighthouse"}
PATH = "/v1/images/generations"


@pytest.fixture
def settings(database_url, simulator, tmp_path):
    """The settings of a service before the simulator."""
    return {
        "REPLICATE_BASE_URL": simulator.url,
        "REPLICATE_API_TOKEN": SERVER_TOKEN,
        "CONCURRENT_DOCKER_ADMIN_API_KEY": ADMIN_KEY,
        "DATA_DIR": tmp_path,
        "DATABASE_URL": database_url,
        "PROCESS_TTL": 2,
    }


@pytest.fixture
def pair(settings):
    """Two processes on one ledger."""
    if not settings["DATABASE_URL"]:
        pytest.skip("SQLite has one process")
    with running_service(**settings) as one, running_service(**settings) as two:
        yield one, two


def begun(service, simulator, body=BODY):
    """The connection of a call, once its prediction runs."""
    caller = service.connect(PATH, body, **FIRST)
    until(lambda: simulator.counts().creations_accepted == 1)
    return caller


def retried(service, body=BODY):
    """The status and the body of the response to a retry."""
    return read_response(service.connect(PATH, body, **RETRY))


def lost(service, simulator):
    """The id of a call that disconnects once its prediction runs."""
    begun(service, simulator).close()
    [found] = listed(service)
    return found["id"]


def test_a_retry_joins_the_call_that_its_client_has_lost(settings, simulator):
    with running_service(**settings) as service:
        expected = lost(service, simulator)
        status, made = retried(service)

        assert (200, expected) == (status, made["id"])
        assert 1 == simulator.counts().creations_accepted


def test_a_retry_joins_nothing_while_the_caller_of_the_only_call_waits(settings, simulator):
    with running_service(**settings) as service:
        waiting = begun(service, simulator)
        retry = service.connect(PATH, BODY, **RETRY)

        assert read_response(waiting)[1]["id"] != read_response(retry)[1]["id"]
        assert 2 == simulator.counts().creations_accepted


def test_a_delivered_call_is_joined_by_no_retry(settings, simulator):
    with running_service(**settings) as service:
        for headers in (FIRST, RETRY):
            answer = requests.post(f"{service.url}{PATH}", json=BODY, headers=headers, timeout=30)
            assert 200 == answer.status_code

        assert 2 == len({each["id"] for each in listed(service)})


def test_the_waiting_call_of_a_killed_process_is_joined_in_the_next(settings, simulator):
    with running_service(**settings) as first:
        caller = begun(first, simulator, SLOW)
        first.kill()
        caller.close()
    with running_service(**settings) as second:
        until(lambda: lost_rows(settings) == 1)
        status, made = retried(second, SLOW)

        assert (200, [made["id"]]) == (status, [each["id"] for each in listed(second)])
    assert 1 == simulator.counts().creations_accepted


def test_a_call_that_a_stop_interrupts_goes_on_for_its_client_in_the_next_process(settings, simulator):
    with running_service(**settings, DRAIN_SECONDS=0) as first:
        caller = begun(first, simulator, SLOW)
        first.signal(signal.SIGTERM)
        answer = b""
        while part := caller.recv(65536):
            answer += part
        caller.close()
        first.ended()
    head, _, content = answer.partition(b"\r\n\r\n")
    assert b" 504 " in head
    assert b"x-should-retry: true" in head
    assert "still_running" == json.loads(content)["error"]["code"]
    with running_service(**settings) as second:
        status, made = retried(second, SLOW)

        assert (200, [made["id"]]) == (status, [each["id"] for each in listed(second)])
    assert 1 == simulator.counts().creations_accepted


def test_a_client_that_waits_too_short_gets_its_picture_by_retrying(settings, simulator):
    with (
        running_service(**settings) as service,
        openai.OpenAI(base_url=f"{service.url}/v1", api_key=ADMIN_KEY, timeout=1.5, max_retries=5) as client,
    ):
        made = client.images.generate(**BODY)

        assert [made.id] == [each["id"] for each in listed(service)]
    assert 1 == simulator.counts().creations_accepted


def test_a_call_that_one_process_has_lost_is_joined_in_another(pair, simulator):
    one, two = pair
    expected = lost(one, simulator)
    with ThreadPoolExecutor() as callers:
        made = [each["id"] for _, each in callers.map(retried, (two, one))]

    assert 2 == len(set(made))
    assert 1 == made.count(expected)
    assert 2 == simulator.counts().creations_accepted


def test_a_retry_that_comes_before_the_death_of_a_process_is_noticed_waits_for_its_work(pair, simulator):
    one, two = pair
    caller = begun(one, simulator, SLOW)
    one.kill()
    caller.close()
    status, made = retried(two, SLOW)

    assert (200, [made["id"]]) == (status, [each["id"] for each in listed(two)])
    assert 1 == simulator.counts().creations_accepted


def test_a_joined_call_survives_the_death_of_the_process_that_runs_it_and_is_not_shared(
    pair, settings, simulator
):
    one, two = pair
    begun(one, simulator, SLOWEST).close()
    joined = two.connect(PATH, SLOWEST, **RETRY)
    until(lambda: is_waited_for_elsewhere(settings))
    one.kill()
    until(lambda: processes(settings) == 1)
    other = two.connect(PATH, SLOWEST, **RETRY)

    made = [read_response(each)[1]["id"] for each in (joined, other)]
    assert 2 == len(set(made))


def query(settings, sql):
    """The first value that a query of the ledger returns."""
    if settings["DATABASE_URL"]:
        with psycopg.connect(settings["DATABASE_URL"]) as connection:
            return connection.execute(sql).fetchone()[0]
    with closing(sqlite3.connect(settings["DATA_DIR"] / "ledger.db")) as connection:
        return connection.execute(sql).fetchone()[0]


def lost_rows(settings):
    return query(settings, "SELECT count(*) FROM lost_calls")


def is_waited_for_elsewhere(settings):
    return query(settings, "SELECT body_fingerprint IS NULL FROM generations")


def processes(settings):
    """How many processes have work of their own."""
    return query(settings, "SELECT count(*) FROM processes WHERE dead_at IS NULL")
