"""Limits are exact, and arrivals are counted."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

from simulator import Options, running
from simulator.accounts import Account
from simulator.windows import MINUTE, Window


def test_a_creation_over_the_limit_is_refused_until_the_window_moves(sim, caller, clock):
    sim.account("r8_tester", creations_per_minute=3)
    for _ in range(3):
        assert caller.create().status_code == 201
        clock.advance(seconds=1)
    refused = caller.create()
    assert refused.status_code == 429
    assert refused.headers["Retry-After"] == "57"
    detail = "Request was throttled. Your rate limit resets in ~57s."
    assert refused.json() == {"detail": detail, "status": 429, "retry_after": 57}
    clock.advance(seconds=57)
    assert caller.create().status_code == 201
    assert caller.create().status_code == 429


def test_a_place_is_free_after_sixty_seconds_and_not_a_nanosecond_before():
    account = Account(Options(creations_per_minute=1))
    assert account.admit(0, creation=True)
    assert not account.admit(MINUTE - 1, creation=True)
    assert account.admit(MINUTE, creation=True)


def test_any_sixty_seconds_admit_no_more_than_the_limit():
    account = Account(Options(creations_per_minute=600))
    second = MINUTE // 60
    admitted = [t for t in range(0, 5 * MINUTE, second // 40) if account.admit(t, creation=True)]
    densest = Window()
    for stamp in admitted:
        densest.add(stamp)
    assert densest.peak == 600
    assert len(admitted) == 5 * 600


def test_refused_requests_take_no_place(sim, caller, clock):
    sim.account("r8_tester", creations_per_minute=1)
    assert caller.create().status_code == 201
    for _ in range(5):
        clock.advance(seconds=10)
        assert caller.create().status_code == 429
    clock.advance(seconds=10)
    assert caller.create().status_code == 201


def test_creations_and_other_requests_have_separate_windows(sim, caller):
    sim.account("r8_tester", creations_per_minute=1, others_per_minute=2)
    assert caller.create().status_code == 201
    answers = [caller.get("/v1/predictions").status_code for _ in range(3)]
    assert answers == [200, 200, 429]


def test_accounts_have_separate_windows(sim, caller_with):
    sim.account("r8_a", creations_per_minute=1)
    sim.account("r8_b", creations_per_minute=1)
    assert caller_with("r8_a").create().status_code == 201
    assert caller_with("r8_b").create().status_code == 201
    assert caller_with("r8_a").create().status_code == 429


def test_every_response_states_the_remaining_allowance(sim, caller, clock):
    sim.account("r8_tester", creations_per_minute=2)

    def left(answer):
        return answer.headers["ratelimit-remaining"], answer.headers["ratelimit-reset"]

    assert left(caller.create()) == ("1", "60")
    clock.advance(seconds=9.5)
    assert left(caller.create()) == ("0", "51")
    assert left(caller.create()) == ("0", "51")
    assert left(caller.get("/v1/account")) == ("2999", "60")


def test_low_credit_allows_one_creation_every_ten_seconds(sim, caller, clock):
    sim.account("r8_tester", credit="low")
    assert caller.create().status_code == 201
    refused = caller.create()
    assert refused.status_code == 429
    assert refused.json()["retry_after"] == 10
    assert "reduced to 6 requests per minute with a burst of 1" in refused.json()["detail"]
    clock.advance(seconds=10)
    assert caller.create().status_code == 201


def test_a_burst_can_be_set_for_any_limit(sim, caller, clock):
    sim.account("r8_tester", creations_per_minute=60, burst=2)
    assert [caller.create().status_code for _ in range(3)] == [201, 201, 429]
    clock.advance(seconds=2)
    assert caller.create().status_code == 201


def test_a_lowered_limit_counts_earlier_admissions(sim, caller, clock):
    assert [caller.create().status_code for _ in range(3)] == [201] * 3
    sim.account("r8_tester", creations_per_minute=2)
    assert caller.create().headers["Retry-After"] == "60"


def test_the_peak_is_the_densest_minute_including_refused_requests(sim, caller, clock):
    sim.account("r8_tester", creations_per_minute=2)
    for _ in range(4):
        caller.create()
    clock.advance(seconds=60)
    caller.create()
    assert sim.counts().creations_peak_per_minute == 4
    assert sim.counts().creations_accepted == 3


def test_the_peak_is_that_of_the_busiest_token(sim, caller_with):
    for token, times in (("r8_a", 2), ("r8_b", 3)):
        for _ in range(times):
            caller_with(token).create()
            caller_with(token).get("/v1/account")
    assert sim.counts().creations_peak_per_minute == 3
    assert sim.counts().others_peak_per_minute == 3


def test_requests_and_refusals_are_counted_by_kind_and_status(sim, caller, caller_with):
    made = caller.outcome()
    caller.get(f"/v1/predictions/{made['id']}")
    caller.post(f"/v1/predictions/{made['id']}/cancel")
    caller.get("/v1/predictions")
    caller.post("/v1/files", files={"content": b"1"})
    caller.get("/v1/account")
    caller_with(None).get("/v1/account")
    kinds = {"create": 1, "get": 1, "cancel": 1, "list": 1, "file": 1, "account": 2}
    counts = sim.counts()
    assert counts.requests == kinds
    assert counts.refusals == {401: 1}
    assert counts.finished == {"succeeded": 1}


def test_predictions_in_flight_are_counted_until_they_end(sim, caller):
    made = [caller.create("[[hang]]").json() for _ in range(3)]
    assert sim.counts().in_flight == 3
    for each in made:
        caller.post(f"/v1/predictions/{each['id']}/cancel")
    assert sim.counts().in_flight == 0
    assert sim.counts().in_flight_peak == 3
    assert sim.counts().finished == {"canceled": 3}


def test_counts_predictions_accounts_and_reset_work_over_http(sim, caller):
    made = caller.outcome()
    assert caller.get("/simulator/counts").json()["creations_accepted"] == 1
    shown = caller.get("/simulator/predictions")
    assert shown.json()["predictions"][0]["id"] == made["id"]
    assert "r8_tester" not in shown.text
    changes = {"token": "r8_tester", "credit": "empty"}
    assert caller.post("/simulator/accounts", json=changes).status_code == 200
    assert caller.create().status_code == 402
    wrong = {"token": "r8_tester", "credit": "plenty"}
    assert caller.post("/simulator/accounts", json=wrong).status_code == 400
    assert caller.post("/simulator/reset").status_code == 200
    assert sim.predictions() == []
    assert caller.create().status_code == 201
    assert sim.counts().requests == {"create": 1}


def test_a_prediction_records_the_request_that_created_it(sim, caller):
    caller.create("a fox", headers={"Cancel-After": "1m", "X-Trace": "7"}, seed=3)
    (made,) = sim.predictions()
    assert made.model == "black-forest-labs/flux-dev"
    assert made.token == "r8_tester"
    assert made.input == {"prompt": "a fox", "seed": 3}
    assert made.body == {"input": made.input}
    assert made.headers["X-Trace"] == "7"
    assert made.cancel_after == 60
    assert "r8_tester" not in repr(made)


def test_a_hundred_parallel_callers_all_get_responses(sim, caller):
    with ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(lambda n: caller.create(f"fox {n}").status_code, range(200)))
    assert answers == [201] * 200
    assert sim.counts().creations_accepted == 200


def test_the_network_delay_applies_before_and_after_a_request(make_caller):
    delay = timedelta(seconds=0.1)
    with running(Options(answer_delay=(0.1, 0.1))) as sim:
        sent = datetime.now(UTC)
        assert make_caller(sim.url).create().status_code == 201
        answered = datetime.now(UTC)
        (made,) = sim.predictions()
        assert sent + delay <= made.created_at <= answered - delay
