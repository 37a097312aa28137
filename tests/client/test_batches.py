"""Batches, events, lists and keys: what the operations ask for, on a virtual clock."""

import json
from datetime import date

import httpx
import pytest
from replicate_concurrent import BadAnswer, ConnectionLost, TimedOut, results
from replicate_concurrent.operations import batches, following, keys, looking
from replicate_concurrent.operations.generating import Order

from tests.support.scripted_service import ScriptedService, answer, problem

ORDER = Order({"model_name": "flux-dev", "prompts": ["a", "b"]}, path="/generate-batch")


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def scripted(request):
    return lambda *answers, **settings: ScriptedService(answers, on_asyncio=request.param, **settings)


def item(index, **more):
    return {"index": index, "id": f"gen_{index}", "success": True, "status": "succeeded", **more}


def running(*items):
    return answer(202, {"id": "batch_1", "status": "running", "total": 2, "results": [*items]})


def completed(*items):
    return answer(
        200, {"id": "batch_1", "status": "completed", "success": True, "total": 2, "results": [*items]}
    )


def test_a_batch_has_its_results_in_input_order_and_a_failed_item_does_not_raise(scripted):
    failed = {
        "index": 1,
        "id": "gen_1",
        "success": False,
        "error": {"code": "generation_failed", "detail": "CUDA"},
    }
    service = scripted(running(), running(failed), completed(failed, item(0)))

    made = service.run(batches.run(service.service, ORDER))

    assert [("gen_0", None), ("gen_1", "generation_failed")] == [
        (each.id, each.error and each.error.code) for each in made.results
    ]
    assert ["POST /generate-batch", "GET /batches/batch_1", "GET /batches/batch_1"] == service.paths()


def test_a_batch_that_the_next_process_continues_is_looked_up(scripted):
    handed_over = problem(503, "shutting_down", id="batch_1", headers={"x-should-retry": "false"})
    service = scripted(handed_over, completed(item(0)))

    assert "batch_1" == service.run(batches.run(service.service, ORDER)).id


def test_results_come_once_each_as_they_end(scripted):
    service = scripted(running(item(1)), running(item(1)), completed(item(0), item(1)))

    found = service.emitted(batches.results(service.service, "batch_1"))

    assert ["gen_1", "gen_0"] == [each.id for each in found]


def test_looks_at_a_long_batch_are_two_seconds_apart(scripted):
    service = scripted(running())

    with pytest.raises(TimedOut) as late:
        service.run(batches.wait(service.service, "batch_1", timeout=300))

    assert "batch_1" == late.value.id
    assert (0.25, 2.0) == (min(service.pauses[:-1]), max(service.pauses))


@pytest.mark.parametrize(
    "arguments",
    [("a text", "flux-dev", None), (None, "flux-dev", None), (["a"], None, None), (["a"], None, [{}])],
)
def test_a_batch_of_contradicting_arguments_is_refused(arguments):
    with pytest.raises(TypeError):
        batches.body(*arguments, {})


def test_a_model_beside_requests_is_that_of_all_without_their_own():
    requests = [{"prompt": "a"}, {"prompt": "b", "model_name": "qwen-image"}]

    made = batches.body(None, "flux-dev", requests, {"external_semaphore_id": "gpu"})

    assert ["flux-dev", "qwen-image"] == [each["model_name"] for each in made["requests"]]
    assert "gpu" == made["external_semaphore_id"]


def stream(*events):
    text = "".join(f"event: {name}\ndata: {json.dumps(data)}\n\n" for name, data in events)
    headers = {"Content-Type": "text/event-stream"}
    return httpx.Response(200, text=f": still here\n\n{text}", headers=headers)


def test_events_come_once_each_over_streams_that_end_early(scripted):
    queued, running_, done = (
        ("queued", {"id": "gen_1"}),
        ("running", {"id": "gen_1"}),
        ("done", {"id": "gen_1"}),
    )
    service = scripted(
        stream(queued, ("shutting_down", {})),
        problem(503, "starting", retryable=True),
        stream(queued, running_, done),
    )

    found = service.emitted(following.events(service.service, "gen_1"))

    assert ["queued", "shutting_down", "running", "done"] == [each.name for each in found]
    assert [{"id": "gen_1"}, {}] == [each.raw for each in found[:2]]


def test_a_page_of_another_program_is_no_stream_of_events(scripted):
    service = scripted(httpx.Response(200, text="<html>"))

    with pytest.raises(BadAnswer, match="no stream of events"):
        service.emitted(following.events(service.service, "gen_1"))

    assert 1 == len(service.requests)


def test_streams_that_bring_nothing_end_after_the_timeout(scripted):
    service = scripted(httpx.ReadError("lost"), timeout=60)

    with pytest.raises(ConnectionLost):
        service.emitted(following.events(service.service, "gen_1"))


def test_a_list_goes_through_its_pages_up_to_its_limit(scripted):
    page = answer(200, {"generations": [{"id": "gen_1"}, {"id": "gen_2"}], "next_cursor": "next"})
    service = scripted(page)

    found = service.emitted(
        looking.generations(
            service.service, limit=3, since=date(2026, 11, 21), metadata={"project": "web"}, state="failed"
        ),
    )

    assert ["gen_1", "gen_2", "gen_1"] == [each.id for each in found]
    assert [
        {"limit": "3", "state": "failed", "since": "2026-11-21", "metadata.project": "web"},
        {"limit": "1", "state": "failed", "since": "2026-11-21", "metadata.project": "web", "cursor": "next"},
    ] == [dict(each.url.params) for each in service.requests]


def test_the_text_of_a_key_is_in_no_repr(scripted):
    service = scripted(answer(201, {"id": "key_1", "name": "shop", "key": "rcg_secret"}))

    made = service.run(keys.create(service.service, "shop", {"max_concurrent": 5}))

    assert "rcg_secret" == made.key
    assert "rcg_secret" not in repr(made)
    assert [{"name": "shop", "max_concurrent": 5}] == service.bodies()


def test_an_estimate_spends_nothing_for_one_prompt_and_for_many(scripted):
    service = scripted(
        answer(200, {"dry_run": True, "total": 2, "strategy": "window", "estimated_cost_usd": 0.05})
    )

    one = service.run(looking.estimate(service.service, "A fox", "flux-dev", None, {}))
    service.run(looking.estimate(service.service, ["A fox", "A hare"], "flux-dev", None, {}))

    assert ("window", 0.05) == (one.strategy, one.estimated_cost_usd)
    assert ["POST /generate", "POST /generate-batch"] == service.paths()
    assert [True, True] == [each["dry_run"] for each in service.bodies()]


@pytest.mark.parametrize(
    "view",
    [
        results.generation,
        results.batch,
        results.plan,
        results.model,
        results.usage,
        results.status,
        results.key,
    ],
)
def test_results_take_what_other_versions_of_the_service_send(view):
    assert {} == view({}).raw
    assert {"new_field": [1]} == view({"new_field": [1]}).raw
