"""A community model boots once before its first prediction, and is billed by the time of its hardware."""

import asyncio

import pytest

from simulator import Options
from simulator.billing import usd_per_second
from simulator.model import Price
from simulator.schemas import Schema
from simulator.state import SimulatorState
from tests.support import virtual_time
from tests.unit.simulator.creations import FLUX_DEV, WATERCOLOR, creation, run_in_virtual_time

FACE = "https://example.com/face.jpg"
H100 = 0.001525


def started_after(*creations, every=0, **options):
    """The seconds from each creation to its start. `every` is the time between two creations."""

    async def main():
        loop = asyncio.get_running_loop()
        world = SimulatorState(
            Options(prediction_seconds=10, jitter=0, **options), clock=lambda: round(loop.time() * 1e9)
        )
        made = []
        for each in creations:
            made.append(world.create(each))
            await asyncio.sleep(every)
        await asyncio.sleep(3600)
        records = [each.record() for each in made]
        await world.close()
        return [
            round((each.started_at - each.created_at).total_seconds(), 3) if each.started_at else None
            for each in records
        ]

    return virtual_time.run(main())


def test_the_first_prediction_boots_its_version_and_those_meanwhile_wait_for_the_same_boot():
    three = [creation(model=WATERCOLOR) for _ in range(3)]

    assert [61, 41, 21] == started_after(*three, every=20, boot_seconds=60)
    assert [61, 1, 1] == started_after(*three, every=100, boot_seconds=60)


def test_a_model_boots_as_long_as_its_file_says_and_official_models_never():
    assert [21] == started_after(creation(model="acme/sleepy-portrait"))
    assert [1] == started_after(creation(model=FLUX_DEV), boot_seconds=60)
    always_on = creation(None, model="acme/upscaler", deployment="acme/fast-upscaler", img=FACE)
    assert [1] == started_after(always_on, boot_seconds=60)


def test_a_directive_lets_one_prediction_boot():
    assert [31, 1] == started_after(creation("[[boot=30]]", model=WATERCOLOR), creation(model=WATERCOLOR))


def test_a_deadline_during_the_boot_aborts_and_costs_nothing():
    (record,), _ = run_in_virtual_time(creation(model=WATERCOLOR, cancel_after=30), boot_seconds=60)

    assert ("aborted", None, 0.0) == (record.status, record.started_at, record.billed_usd)


def test_a_boot_does_not_shorten_the_thirty_minutes_of_a_run():
    (record,), _ = run_in_virtual_time(creation("[[slow=1750]]", model=WATERCOLOR), boot_seconds=300)

    assert "succeeded" == record.status


def bill(*, cancelled_after=None, boot_seconds=None, **named):
    (record,), counts = run_in_virtual_time(
        creation(**named), cancelled_after=cancelled_after, boot_seconds=boot_seconds
    )
    assert counts.billed_usd == record.billed_usd
    return record.billed_usd


@pytest.mark.parametrize(
    ("named", "seconds"),
    [
        ({"model": WATERCOLOR}, 9),
        ({"model": WATERCOLOR, "num_outputs": 4}, 9),
        ({"model": WATERCOLOR, "prompt": "[[fail]]"}, 0),
        ({"model": WATERCOLOR, "prompt": "[[empty]]"}, 9),
        ({"model": WATERCOLOR, "prompt": "[[hang]]", "cancelled_after": 101}, 100),
        ({"model": WATERCOLOR, "boot_seconds": 60}, 9),
    ],
)
def test_a_public_community_model_is_billed_by_the_time_that_it_ran(named, seconds):
    assert pytest.approx(H100 * seconds, abs=1e-6) == bill(**named)


@pytest.mark.parametrize("prompt", ["a fox", "[[fail]]"])
def test_a_private_model_pays_for_its_boot_and_its_failures(prompt):
    mine = {"model": "acme/confidential", "token": "r8_acme", "prompt": prompt}

    assert pytest.approx(usd_per_second("gpu-t4") * 70, abs=1e-6) == bill(boot_seconds=60, **mine)


def test_a_deployment_is_billed_by_its_own_hardware():
    named = {"prompt": None, "model": "acme/upscaler", "img": FACE}

    assert pytest.approx(usd_per_second("gpu-t4") * 9, abs=1e-6) == bill(**named)
    assert pytest.approx(usd_per_second("gpu-l40s") * 10, abs=1e-6) == bill(
        deployment="acme/fast-upscaler", **named
    )


@pytest.mark.parametrize(
    ("hardware", "usd"),
    [("cpu", 0.0001), ("gpu-h100-8x", 8 * H100), ("gpu-8x-l40s", 8 * 0.000975), ("gpu-unknown", H100)],
)
def test_hardware_has_a_price_for_each_second(hardware, usd):
    assert usd == usd_per_second(hardware)


def test_a_price_can_be_a_table_by_inputs():
    properties = {
        "resolution": {"type": "string", "default": "1K"},
        "audio": {"type": "boolean", "default": True},
    }
    schema = Schema({"components": {"schemas": {"Input": {"properties": properties}}}})
    price = Price({"1K": {"true": 0.2, "false": 0.1}, "4K": 0.5}, "second", ("resolution", "audio"))

    assert [0.2, 0.1, 0.5, 0.5] == [
        price.of(schema, given)
        for given in ({}, {"audio": False}, {"resolution": "4K"}, {"resolution": "9K"})
    ]
