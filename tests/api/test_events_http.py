"""`GET /generations/{id}/events`: the events of a generation, from the beginning."""

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial

import pytest
import requests

from harness.service_process import running_service, until
from settings.capacity import LISTENERS_AT_ONCE
from tests.support.api_client import PICTURE, ended, look_up, meanwhile, picture, submit
from tests.support.callers import ADMIN, USER
from tests.support.ndjson import settle
from tests.support.problem_documents import problem
from tests.support.served_in_process import online


def events_of(answer):
    """The events of a stream as they arrive, as pairs of name and data."""
    for chunk in answer.iter_encoded():
        for block in chunk.decode().split("\n\n"):
            if block and not block.startswith(":"):
                name, data = block.split("\n")
                assert name.startswith("event: ")
                yield name.removeprefix("event: "), json.loads(data.removeprefix("data: "))


def order_of(events):
    """The names of the events, each once, without progress."""
    return list(dict.fromkeys(name for name, _ in events if name != "progress"))


def listen(client, target, *, by=USER):
    return client.get(f"/generations/{target}/events", headers=by)


def test_a_subscriber_gets_every_event_from_queued_to_done(client, simulator):
    target = submit(client, "[[hang]]")

    with listen(client, target) as answer:
        events = meanwhile(simulator.finish, lambda: list(events_of(answer)))

    assert (200, "text/event-stream") == (answer.status_code, answer.mimetype)
    assert ["queued", "running", "done"] == order_of(events)
    assert {target} == {data["id"] for _, data in events}
    assert "created_at" in events[0][1]
    (running,) = [data for name, data in events if name == "running"]
    assert running["prediction_id"] == events[-1][1]["prediction_id"]
    assert look_up(client, target) == events[-1][1]


@pytest.mark.parametrize(
    ("prompt", "names"), [("a", ["queued", "running", "done"]), ("[[nsfw]]", ["queued", "running", "done"])]
)
def test_a_subscriber_after_the_end_gets_all_events(client, prompt, names):
    result = ended(client, submit(client, prompt))

    with listen(client, result["id"]) as answer:
        events = list(events_of(answer))

    assert names == [name for name, _ in events]
    assert result == events[-1][1]


def test_a_generation_that_never_ran_has_no_running_event(make_app, simulator):
    client = make_app(REPLICATE_CONCURRENT_LIMIT=1).test_client()
    running = submit(client, "[[hang]]")
    until(lambda: 1 == simulator.counts().in_flight)
    target = submit(client)
    with listen(client, target) as answer:
        client.delete(f"/generations/{target}", headers=USER)
        events = list(events_of(answer))

    assert ["queued", "done"] == [name for name, _ in events]
    assert "canceled" == events[-1][1]["status"]
    client.delete(f"/generations/{running}", headers=USER)


def test_a_retry_is_an_event(client, simulator):
    simulator.inject(on="create", status=503, headers={"Retry-After": "0"})
    simulator.inject(on="create", delay=30)
    target = submit(client)

    with listen(client, target) as answer:
        events = meanwhile(simulator.respond, lambda: list(events_of(answer)))

    assert ["queued", "running", "done"] == order_of(events)
    assert 2 == events[-1][1]["attempts"]


def test_progress_is_sent_for_models_that_print_it_and_only_grows(client, simulator):
    target = submit(client, "[[slow=20]]", num_inference_steps=50)

    events = []
    with listen(client, target) as answer:
        for event in events_of(answer):
            events.append(event)
            if 3 == [name for name, _ in events].count("progress"):
                simulator.finish()

    names = [name for name, _ in events]
    progress = [data["progress"] for name, data in events if name == "progress"]
    assert sorted(set(progress)) == progress
    assert len(progress) >= 3
    assert all(0 <= each <= 100 for each in progress)
    assert names.index("running") < names.index("progress")
    assert "done" == names[-1]


def test_all_subscribers_get_the_same_events(app, client, simulator):
    target = submit(client, "[[hang]]")
    with online(app) as url, ThreadPoolExecutor(8) as listeners:

        def read_all(_):
            return requests.get(f"{url}/generations/{target}/events", headers=USER, timeout=30).text

        answered = meanwhile(simulator.finish, lambda: list(listeners.map(read_all, range(8))))

    assert 1 == len({each.rpartition("event: done")[2] for each in answered})


def test_a_disconnected_subscriber_does_not_cancel_the_generation(app, client, simulator):
    target = submit(client, "[[hang]]")
    listen(client, target).close()
    listen(client, target).close()

    assert "succeeded" == meanwhile(simulator.finish, lambda: ended(client, target))["status"]
    settle(app)
    assert 1 == simulator.counts().creations_accepted


def test_progress_is_polled_only_while_there_are_subscribers(app, client):
    target = submit(client, "[[hang]]")
    until(lambda: "running" == look_up(client, target)["status"])
    service = app.extensions["service"]
    watcher = service.core.provider.watcher

    prediction_id = look_up(client, target)["prediction_id"]

    def followers():
        (watch,) = watcher.watches_of(prediction_id)
        return len(watch.followers)

    with listen(client, target), listen(client, target):
        until(lambda: 2 == service.loop.call(followers))
    until(lambda: 0 == service.loop.call(followers))
    client.delete(f"/generations/{target}", headers=USER)


def test_the_number_of_listeners_is_limited_and_freed_afterwards(app, client):
    target = submit(client, "[[hang]]")
    sitting = [listen(client, target) for _ in range(LISTENERS_AT_ONCE // 2)]

    refused = listen(client, target)
    problem(refused, 429, "queue_full", retryable=True)
    assert 1 <= int(refused.headers["Retry-After"]) <= 3600
    assert 200 == client.post("/generate", json=PICTURE, headers=USER).status_code
    sitting.pop().close()
    sitting.append(listen(client, target))
    assert 200 == sitting[-1].status_code

    client.delete(f"/generations/{target}", headers=USER)
    assert ["done"] * (LISTENERS_AT_ONCE // 2) == [list(events_of(each))[-1][0] for each in sitting]
    for each in sitting:
        each.close()
    listen(client, target).close()
    assert 0 == len(app.extensions["service"].core.generations.events.sending)


def test_a_head_request_holds_no_listener_slot(client):
    target = submit(client, "[[hang]]")

    for _ in range(LISTENERS_AT_ONCE // 2 + 1):
        with client.head(f"/generations/{target}/events", headers=USER) as answer:
            assert 200 == answer.status_code
    client.delete(f"/generations/{target}", headers=USER)


@pytest.mark.slow
def test_a_listener_that_disconnects_frees_its_slot_at_once(simulator, tmp_path):
    with running_service(REPLICATE_BASE_URL=simulator.url, DATA_DIR=tmp_path) as service:
        headers = USER | {"Prefer": "respond-async"}
        body = picture("[[hang]]")
        target = requests.post(f"{service.url}/generate", json=body, headers=headers, timeout=30).json()["id"]
        path = f"/generations/{target}/events"
        for _ in range(2):
            with ExitStack() as stack:
                connect = partial(service.connect, path, **USER)
                listeners = [stack.enter_context(connect()) for _ in range(LISTENERS_AT_ONCE // 2)]
                assert {b"HTTP/1.1 200 OK"} == {each.recv(15) for each in listeners}

            def there_is_room():
                with requests.get(service.url + path, headers=USER, stream=True, timeout=30) as answer:
                    return 200 == answer.status_code

            until(there_is_room)
        requests.delete(f"{service.url}/generations/{target}", headers=USER, timeout=30)


def test_listeners_get_shutting_down_at_a_stop_and_may_reconnect(make_app, simulator):
    app = make_app(REPLICATE_CONCURRENT_LIMIT=1)
    client = app.test_client()
    running = submit(client, "[[hang]]", by=ADMIN)
    until(lambda: 1 == simulator.counts().in_flight)
    target = submit(client, by=ADMIN)
    with listen(client, target, by=ADMIN) as answer:
        app.extensions["service"].begin_drain(0)
        assert ["queued", "shutting_down"] == [name for name, _ in events_of(answer)]
    app.extensions["service"].close()

    client = make_app().test_client()
    simulator.finish()
    for each in (running, target):
        with listen(client, each, by=ADMIN) as answer:
            assert "succeeded" == list(events_of(answer))[-1][1]["status"]
