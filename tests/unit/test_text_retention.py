"""Texts of calls are removed from the ledger after `TEXTS_TTL`, and all other facts stay."""

from contract.tasks import CHAT, GONE
from generations import views
from generations.archive import Archive
from generations.text_retention import TextRetention
from ledger.memory import MemoryLedger
from ledger.records import AttemptRecord, Delivery, GenerationRecord
from tests.support.records import generation
from tests.support.virtual_time import run
from tests.support.wiring import ADDRESS, AtOnce

NOW = 1_790_000_000.0
DAY = 86_400.0


def chat(generation_id, *, age):
    attempt = AttemptRecord(
        generation_id=generation_id,
        number=1,
        model="lite",
        prompt_tokens=4,
        completion_tokens=2,
        thinking_tokens=0,
    )
    return generation(
        generation_id,
        door=CHAT,
        state="succeeded",
        prompt="Tell it",
        outputs=("Once",),
        calls=1,
        cost_usd=0.25,
        metadata='{"a": "b"}',
        ended_at=NOW - age,
        attempts=(attempt,),
    )


def after_removal(*records, ttl=7 * DAY, deliveries=(), again=()):
    ledger = MemoryLedger()
    ledger.rows[GenerationRecord] = {(each.id,): each for each in records}
    ledger.rows[Delivery] = {(each.id,): each for each in deliveries}

    async def main():
        archive = Archive(ledger=ledger, queries=ledger, threads=AtOnce())
        retention = TextRetention(ledger=ledger, archive=archive, ttl=ttl, models=["lite"], clock=lambda: NOW)
        await retention.remove()
        for each in again:
            ledger.upsert(each)
        await ledger.flush()
        await retention.remove()

    run(main())
    return {each.id: each for each in ledger.all(GenerationRecord)}


def test_texts_are_removed_after_the_time_and_facts_stay():
    found = after_removal(chat("old", age=8 * DAY), chat("new", age=6 * DAY))

    assert ("Tell it", ("Once",)) == (found["new"].prompt, found["new"].outputs)
    body = views.generation(found["old"], ADDRESS)
    assert {
        "prompt": None,
        "response": None,
        "output": [],
        "warnings": [GONE],
        "cost_usd": 0.25,
        "metadata": {"a": "b"},
        "success": True,
    }.items() <= body.items()
    assert 6 == body["usage"]["total_tokens"]


def test_a_pending_delivery_keeps_its_texts_and_an_end_that_is_seen_late_loses_them():
    delivery = Delivery("old", "https://a.test", NOW)
    found = after_removal(
        chat("old", age=7.5 * DAY), deliveries=[delivery], again=[chat("late", age=7.9 * DAY)]
    )

    assert ["Tell it", ""] == [found["old"].prompt, found["late"].prompt]


def test_thousands_of_texts_are_removed_in_steps():
    found = after_removal(*(chat(f"gen_{number}", age=8 * DAY) for number in range(1201)))

    assert {""} == {each.prompt for each in found.values()}
