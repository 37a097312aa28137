"""A prompt can ask for its own outcome."""

import asyncio
import time

import httpx
import pytest

from simulator import catalog
from simulator.counts import Counters
from simulator.directives import FOREVER, Plan
from simulator.predictions import Creation, PredictionStore


@pytest.mark.parametrize(
    ("prompt", "status", "error"),
    [
        ("a [[fail]] fox", "failed", "CUDA out of memory"),
        ("[[fail=the fox ran away]]", "failed", "the fox ran away"),
        ("[[nsfw]]", "failed", "NSFW content detected"),
    ],
)
def test_a_prediction_fails_as_asked(caller, prompt, status, error):
    outcome = caller.outcome(prompt)
    assert outcome["status"] == status
    assert outcome["error"].startswith(error)
    assert outcome["output"] is None


def test_a_transient_failure_strikes_once_per_prompt_and_account(caller, caller_with):
    def statuses(who, prompt):
        return [who.outcome(prompt)["status"] for _ in range(3)]

    assert statuses(caller, "[[transient]] fox") == ["failed", "succeeded", "succeeded"]
    assert statuses(caller, "[[transient]] hen") == ["failed", "succeeded", "succeeded"]
    assert statuses(caller_with("r8_other"), "[[transient]] fox")[0] == "failed"


def test_a_transient_failure_says_that_it_is_worth_a_retry(caller):
    error = caller.outcome("[[transient]]")["error"]
    assert error == "Prediction interrupted; please retry (code: PA)"


@pytest.mark.parametrize(("directive", "status"), [("[[hang]]", "processing"), ("[[cold]]", "starting")])
def test_a_prediction_can_stay_as_it_is(caller, directive, status):
    made = caller.create(f"[[slow=0]] {directive}").json()
    caller.outcome("one that was created later and ends")
    assert caller.status(made) == status


def test_a_slow_prediction_takes_exactly_that_long(caller):
    taken = caller.outcome("[[slow=0.3]]")["metrics"]["total_time"]
    assert taken >= 0.3


def test_a_prediction_that_takes_no_time_is_over_in_the_answer_to_its_creation(caller):
    answer = caller.create("[[slow=0]] a fox")
    assert (answer.status_code, answer.json()["status"]) == (201, "succeeded")
    assert len(answer.json()["output"]) == 1
    assert answer.json() == caller.get(f"/v1/predictions/{answer.json()['id']}").json()


def test_a_prediction_that_takes_no_time_can_still_fail(caller):
    answer = caller.create("[[slow=0]] [[nsfw]]").json()
    assert (answer["status"], answer["output"]) == ("failed", None)


def test_an_empty_prediction_succeeds_with_nothing(caller):
    outcome = caller.outcome("[[empty]]")
    assert (outcome["status"], outcome["output"]) == ("succeeded", None)


def test_fewer_outputs_than_asked_for_can_come(caller):
    assert len(caller.outcome("[[fewer]]", num_outputs=3)["output"]) == 2


def test_text_can_come_in_place_of_pictures(caller):
    assert ["I cannot draw that."] == caller.outcome("[[text]]", num_outputs=3)["output"]
    outcome = caller.outcome("[[fewer]] [[text=Two are enough.]]", num_outputs=3)
    assert "Two are enough." == outcome["output"][2]
    assert (3, 2) == (len(outcome["output"]), outcome["metrics"]["image_count"])


@pytest.mark.parametrize(
    ("directive", "expected"),
    [
        ("gone", (404, "application/json", b"{")),
        ("blank", (200, "image/webp", b"")),
        ("page", (200, "text/html", b"<")),
    ],
)
def test_an_output_can_lead_to_no_picture(caller, directive, expected):
    (link,) = caller.outcome(f"[[{directive}]]")["output"]
    answer = httpx.get(link)

    assert expected == (answer.status_code, answer.headers["Content-Type"], answer.content[:1])


def test_an_aborted_prediction_never_started(caller):
    outcome = caller.outcome("[[aborted]]")
    assert outcome["status"] == "aborted"
    assert outcome["started_at"] is None
    assert outcome["completed_at"] is not None


def test_replicate_can_cancel_by_itself(caller):
    assert caller.outcome("[[canceled]]")["status"] == "canceled"


def test_an_early_output_is_there_while_the_status_says_processing(sim, caller):
    outcome = caller.outcome("[[early]]")
    assert outcome["status"] == "processing"
    assert len(outcome["output"]) == 1
    assert caller.status(outcome) == "processing"
    assert sim.counts().in_flight == 0


def test_a_sparse_prediction_leaves_out_what_it_may(caller):
    outcome = caller.outcome("[[sparse]]")
    assert set(outcome) == {"id", "model", "input", "output", "error", "status", "created_at"}


def test_directives_combine(caller):
    outcome = caller.outcome("[[slow=0.2]] [[fail=late]]")
    assert (outcome["status"], outcome["error"]) == ("failed", "late")
    assert outcome["metrics"]["total_time"] >= 0.2


@pytest.mark.parametrize(("boot", "status"), [(FOREVER, "aborted"), (0.01, "canceled")])
def test_a_deadline_aborts_what_never_started_and_cancels_what_runs(boot, status):
    async def end():
        counters = Counters()
        book = PredictionStore(keep=10, clock=time.monotonic_ns, counters=counters, on_event=lambda *_: None)
        prediction = book.create(_creation(cancel_after=0.1), Plan(boot, FOREVER), seed=1)
        await prediction.settled.wait()
        assert prediction.timers == []
        return prediction.status

    assert asyncio.run(end()) == status


def test_a_reset_leaves_no_timer_behind(sim, caller):
    caller.create("[[slow=0.1]]")
    sim.reset()
    caller.outcome("[[slow=0.2]]")
    assert sim.counts().finished == {"succeeded": 1}
    assert sim.counts().in_flight == 0


def _creation(*, cancel_after):
    return Creation(
        model=catalog.find("black-forest-labs/flux-dev"),
        version="hidden",
        token="r8_tester",
        input={"prompt": "a fox"},
        body={},
        headers={},
        base_url="http://127.0.0.1",
        cancel_after=cancel_after,
        webhook=None,
        webhook_events=frozenset(),
        size=10,
    )
