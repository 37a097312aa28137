"""The contract of a ledger about trainings, on every implementation."""

import asyncio
from dataclasses import replace

import pytest
from sqlalchemy import event

from contract.trainings import TRAINING
from ledger import Page, Period, PresentWork
from ledger.claims import statement
from ledger.model_records import TrainedModelRecord
from ledger.records import AttemptRecord, Delivery, GenerationRecord
from ledger.training_claims import ClaimTraining
from tests.contracts.test_claims_contract import in_memory, on_postgres, on_sqlite
from tests.support.ledgers import write
from tests.support.records import generation


@pytest.fixture(params=[in_memory, on_sqlite, on_postgres])
def shared(request):
    with request.param() as opened:
        yield opened


def training(name, **facts):
    return generation(f"trn_{name}", **{"door": TRAINING, "model": "ann/trainer"} | facts)


def delete(shared, *works):
    async def story():
        for kind, work_id in works:
            shared.one.delete(kind, work_id)
        await shared.one.flush()

    asyncio.run(story())


# ── Lists


MIXED = (
    generation("a"),
    training("b"),
    generation("tr", door="openai"),
    training("c", caller_id="user_1", state="running"),
    generation("trz" + "0" * 23, door="replicate"),
    training("d", state="succeeded", ended_at=3.0),
    generation("zz", caller_id="user_1"),
)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, ["zz", "trn_d", "trz" + "0" * 23, "trn_c", "tr", "trn_b", "a"]),
        ({"training": True}, ["trn_d", "trn_c", "trn_b"]),
        ({"training": False}, ["zz", "trz" + "0" * 23, "tr", "a"]),
        ({"training": True, "caller_id": "user_1"}, ["trn_c"]),
        ({"training": False, "caller_id": "user_1"}, ["zz"]),
        ({"training": True, "limit": 2}, ["trn_d", "trn_c"]),
        ({"training": True, "before": 6}, ["trn_c", "trn_b"]),
        ({"training": True, "after": 2, "limit": 1}, ["trn_c"]),
        ({"training": True, "state": "succeeded"}, ["trn_d"]),
    ],
)
def test_a_list_has_all_work_or_only_trainings_or_none(shared, facts, expected):
    write(shared.one, *MIXED)

    page = Page(**{"caller_id": None, "limit": 9} | facts)

    assert expected == [each.id for each in shared.queries.page(page)]


# ── Places


def place(name, most=2):
    return ClaimTraining(f"trn_{name}", most)


def state(shared, name):
    return shared.queries.generation(f"trn_{name}").state


def test_a_training_gets_a_place_until_it_has_ended(shared):
    write(shared.one, training("a"))

    assert [True] == shared.claim((shared.one, place("a", most=1)))
    assert "submitting" == state(shared, "a")
    assert [True] == shared.claim((shared.one, place("a", most=1))), "it has a place already"

    write(shared.one, training("a", state="failed", ended_at=2.0), training("b"))

    assert [False, True] == shared.claim((shared.one, place("a", most=1)), (shared.one, place("b", most=1)))
    assert ("failed", "submitting") == (state(shared, "a"), state(shared, "b"))


def test_of_many_claims_in_two_processes_as_many_are_made_as_there_are_places(shared):
    write(shared.one, *(training(str(number)) for number in range(5)))
    write(shared.other, *(training(str(number)) for number in range(5, 10)))
    owners = [shared.one] * 5 + [shared.other] * 5

    for _ in range(3):
        made = shared.claim(*((owner, place(str(number))) for number, owner in enumerate(owners)))

        taken = [number for number, is_made in enumerate(made) if is_made]
        assert 2 == len(taken)
        states = [state(shared, str(number)) for number in range(10)]
        assert taken == [number for number, each in enumerate(states) if each == "submitting"]
        for number in taken:
            write(owners[number], training(str(number)))


def test_a_place_is_taken_by_trainings_of_any_process_that_are_being_created_or_run_and_by_no_other_work(
    shared,
):
    write(
        shared.one,
        training("a"),
        training("queued"),
        training("suspended", state="running", suspended_at=5.0),
        training("ended", state="canceled", ended_at=5.0),
        generation("picture", state="running"),
        generation("other", state="submitting", door="replicate"),
    )
    assert [True] == shared.claim((shared.one, place("a", most=1)))
    write(shared.one, training("a"), training("real", state="running", simulated=False))

    assert [False] == shared.claim((shared.one, place("a", most=1)))
    write(shared.other, training("of another", state="submitting"))
    assert [False, True] == shared.claim((shared.one, place("a")), (shared.one, place("a", most=3)))


def test_a_place_counts_until_the_work_of_a_dead_process_is_taken_over():
    with on_postgres() as shared:
        write(shared.other, training("theirs", state="running"))
        write(shared.one, training("mine"))
        with shared.one.engine.begin() as connection:
            dies = "UPDATE processes SET dead_at = clock_timestamp() WHERE id = %s"
            connection.exec_driver_sql(dies, (shared.other.process,))

        assert [False] == shared.claim((shared.one, place("mine", most=1)))


def test_only_a_training_that_exists_gets_a_place(shared):
    write(shared.one, generation("gen_1"))

    claims = ClaimTraining("gen_1", 9), ClaimTraining("trn_x", 9)

    assert [False, False] == shared.claim(*((shared.one, each) for each in claims))
    assert "queued" == shared.queries.generation("gen_1").state


def test_a_place_is_counted_by_the_index_of_unfinished_work():
    with on_sqlite() as shared, shared.one.engine.connect() as connection:
        sql, parameters = statement(place("a"), None, placeholder="?")
        plan = str(connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", parameters).all())

    assert "generations_by_id (id=?)" in plan
    assert "SCAN other USING INDEX generations_unfinished" in plan


def test_trainings_are_listed_by_the_index_of_their_ids():
    plans = []
    with on_sqlite() as shared:
        engine = shared.one.engine

        def explain(connection, cursor, sql, parameters, context, many):
            if sql.startswith("SELECT generations"):
                cursor.execute(f"EXPLAIN QUERY PLAN {sql}", parameters)
                plans.append(str(cursor.fetchall()))

        event.listen(engine, "before_cursor_execute", explain)
        for caller_id in (None, "admin"):
            shared.queries.page(Page(caller_id, 9, training=True))

    assert 2 == len(plans)
    assert all("generations_by_id (id>? AND id<?)" in each for each in plans)


# ── Limits and usage


def test_trainings_take_no_place_of_their_caller(shared):
    def with_attempt(record):
        attempt = AttemptRecord(
            generation_id=record.id, number=1, model="m", open=True, submitted_at=80.0, answered_at=90.0
        )
        return replace(record, caller_id="key_1", attempts=(attempt,))

    write(
        shared.one,
        *map(with_attempt, [training("a", state="running"), training("b", state="succeeded", ended_at=95.0)]),
        training("c", caller_id="key_1"),
        with_attempt(generation("gen_1", state="running")),
        generation("gen_2", caller_id="key_1", door="openai"),
    )

    assert PresentWork(in_flight=1, waiting=1, created=1) == shared.queries.present_work("key_1", 50.0)


def test_usage_counts_trainings_by_themselves_also_after_they_are_deleted(shared):
    ended = {"state": "succeeded", "ended_at": 90_000.0}
    write(
        shared.one,
        training("a", **ended, cost_usd=1.5),
        training("b", state="failed", ended_at=90_001.0, cost_usd=0.25, caller_id="user_1"),
        training("c", state="running", cost_usd=9.0),
        training("d", **ended, cost_usd=5.0, simulated=False),
        generation("gen_1", **ended, cost_usd=0.5, door="openai"),
        generation("gen_2", **ended, cost_usd=0.5),
    )

    def used(by):
        rows = shared.queries.usage(Period(simulated=True), by=by)
        names = (*by, "generations", "usd", "trainings", "training_usd")
        return [tuple(row[name] for name in names) for row in rows]

    expected = {
        (): [(4, 2.75, 2, 1.75)],
        ("model",): [("ann/trainer", 2, 1.75, 2, 1.75), ("m", 2, 1.0, 0, 0.0)],
        ("caller",): [("admin", 3, 2.5, 1, 1.5), ("user_1", 1, 0.25, 1, 0.25)],
        ("day",): [("1970-01-02", 4, 2.75, 2, 1.75)],
    }
    assert expected == {by: used(by) for by in expected}

    for work_id in ("trn_b", "gen_2", "trn_a"):
        delete(shared, (GenerationRecord, work_id))
        assert expected == {by: used(by) for by in expected}, work_id


# ── Retention


OLD = {"state": "succeeded", "ended_at": 5.0}


def test_a_training_is_kept_as_long_as_it_has_weights_that_have_not_expired(shared):
    weights = training("a", **OLD, files=("trained.tar",))
    write(shared.one, weights, training("b", **OLD), generation("gen_1", **OLD, files=("0.png",)))

    def forgettable(before=1e6, weights_before=None):
        found = shared.queries.forgettable(before, files_before=1e6, weights_before=weights_before, most=9)
        return {work_id for _, work_id in found}

    assert {"trn_b", "gen_1"} == forgettable() == forgettable(weights_before=5.0)
    assert {"trn_a", "trn_b", "gen_1"} == forgettable(weights_before=5.5)
    assert set() == forgettable(before=5.0, weights_before=5.5)
    write(shared.one, replace(weights, files=()))
    assert {"trn_a", "trn_b", "gen_1"} == forgettable()
    write(shared.one, Delivery("trn_a", "https://hooks.example.com/", 5.0))
    assert {"trn_b", "gen_1"} == forgettable()


def test_a_training_has_no_texts_to_remove(shared):
    write(
        shared.one, training("a", **OLD, outputs=({"version": "x"},)), generation("gen_1", **OLD, door="chat")
    )

    assert ["gen_1"] == list(shared.queries.kept_texts(["lite"], since=0.0, before=9.0, most=9))


# ── Trained models


V1, V2, V3 = "1" * 64, "2" * 64, "3" * 64
TRAINED = TrainedModelRecord(
    version=V1, simulated=False, name="ann/dog", trigger_word="TÖK", trainer="ann/trainer", work_id="trn_a",
    trained_at=5.5,
)  # fmt: skip


def test_a_version_that_was_trained_is_found_by_its_id(shared):
    simulated = replace(TRAINED, simulated=True, trigger_word=None, work_id="trn_s")
    write(shared.one, TRAINED, simulated, replace(TRAINED, version=V2))

    assert TRAINED == shared.queries.trained_model(V1, simulated=False)
    assert simulated == shared.queries.trained_model(V1, simulated=True)
    assert shared.queries.trained_model(V2, simulated=True) is None
    assert shared.queries.trained_model(V3, simulated=False) is None


def test_a_trained_version_may_be_written_again_and_outlives_its_training(shared):
    write(shared.one, training("a", **OLD), TRAINED)
    write(shared.other, replace(TRAINED, trained_at=7.5))
    delete(shared, (GenerationRecord, "trn_a"))

    assert shared.queries.generation("trn_a") is None
    assert replace(TRAINED, trained_at=7.5) == shared.queries.trained_model(V1, simulated=False)
