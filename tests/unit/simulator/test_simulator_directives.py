"""A prompt can choose the outcome of its prediction."""

import asyncio
import time

import httpx
import pytest

from simulator import catalog
from simulator.counts import Tally
from simulator.directives import FOREVER, Plan
from simulator.predictions import Creation, Prediction
from simulator.stores import Store


@pytest.mark.parametrize(
    ("prompt", "status", "error"),
    [
        ("a [[fail]] fox", "failed", "CUDA out of memory"),
        ("[[fail=the fox ran away]]", "failed", "the fox ran away"),
        ("[[nsfw]]", "failed", "NSFW content detected"),
    ],
)
def test_a_directive_fails_a_prediction(caller, prompt, status, error):
    outcome = caller.outcome(prompt)
    assert outcome["status"] == status
    assert outcome["error"].startswith(error)
    assert outcome["output"] is None


def test_a_transient_failure_happens_once_for_each_prompt_and_account(caller, caller_with):
    def statuses(who, prompt):
        return [who.outcome(prompt)["status"] for _ in range(3)]

    assert statuses(caller, "[[transient]] fox") == ["failed", "succeeded", "succeeded"]
    assert statuses(caller, "[[transient]] hen") == ["failed", "succeeded", "succeeded"]
    assert statuses(caller_with("r8_other"), "[[transient]] fox")[0] == "failed"


def test_a_transient_failure_recommends_a_retry(caller):
    error = caller.outcome("[[transient]]")["error"]
    assert error == "Prediction interrupted; please retry (code: PA)"


@pytest.mark.parametrize(("directive", "status"), [("[[hang]]", "processing"), ("[[cold]]", "starting")])
def test_a_directive_can_stop_a_predictions_progress(caller, directive, status):
    made = caller.create(f"[[slow=0]] {directive}").json()
    caller.outcome("one that was created later and ends")
    assert caller.status(made) == status


def test_running_predictions_can_be_ended_as_their_directives_say(sim, caller):
    made = [caller.create(prompt).json() for prompt in ("[[hang]]", "[[cold]]", "[[hang]] [[nsfw]]")]
    sim.finish()

    assert [caller.status(each) for each in made] == ["succeeded", "succeeded", "failed"]
    assert caller.status(caller.create("[[hang]]").json()) != "succeeded", "it came later"


def test_a_slow_prediction_takes_exactly_that_long(caller):
    taken = caller.outcome("[[slow=0.3]]")["metrics"]["total_time"]
    assert taken >= 0.3


def test_a_prediction_that_takes_no_time_has_ended_in_the_creations_response(caller):
    answer = caller.create("[[slow=0]] a fox")
    assert (answer.status_code, answer.json()["status"]) == (201, "succeeded")
    assert len(answer.json()["output"]) == 1
    assert answer.json() == caller.get(f"/v1/predictions/{answer.json()['id']}").json()


def test_a_prediction_that_takes_no_time_can_still_fail(caller):
    answer = caller.create("[[slow=0]] [[nsfw]]").json()
    assert (answer["status"], answer["output"]) == ("failed", None)


def test_an_empty_prediction_succeeds_without_output(caller):
    outcome = caller.outcome("[[empty]]")
    assert (outcome["status"], outcome["output"]) == ("succeeded", None)


def test_a_directive_can_reduce_the_outputs(caller):
    assert len(caller.outcome("[[fewer]]", num_outputs=3)["output"]) == 2


def test_a_directive_can_replace_pictures_by_text(caller):
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
def test_an_output_url_can_have_no_picture(caller, directive, expected):
    (link,) = caller.outcome(f"[[{directive}]]")["output"]
    answer = httpx.get(link)

    assert expected == (answer.status_code, answer.headers["Content-Type"], answer.content[:1])


def test_an_aborted_prediction_never_started(caller):
    outcome = caller.outcome("[[aborted]]")
    assert outcome["status"] == "aborted"
    assert outcome["started_at"] is None
    assert outcome["completed_at"] is not None


def test_a_directive_can_cancel_a_prediction(caller):
    assert caller.outcome("[[canceled]]")["status"] == "canceled"


def test_an_early_output_is_present_while_the_status_is_processing(sim, caller):
    outcome = caller.outcome("[[early]]")
    assert outcome["status"] == "processing"
    assert len(outcome["output"]) == 1
    assert caller.status(outcome) == "processing"
    assert sim.counts().in_flight == 0


def test_a_sparse_prediction_leaves_out_all_optional_fields(caller):
    outcome = caller.outcome("[[sparse]]")
    assert set(outcome) == {"id", "model", "input", "output", "error", "status", "created_at"}


def test_directives_combine(caller):
    outcome = caller.outcome("[[slow=0.2]] [[fail=late]]")
    assert (outcome["status"], outcome["error"]) == ("failed", "late")
    assert outcome["metrics"]["total_time"] >= 0.2


@pytest.mark.parametrize(("boot", "status"), [(FOREVER, "aborted"), (0.01, "canceled")])
def test_a_deadline_aborts_a_starting_and_cancels_a_running_prediction(boot, status):
    async def end():
        book = Store(Prediction, keep=10, clock=time.monotonic_ns, tally=Tally(), on_event=lambda *_: None)
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
