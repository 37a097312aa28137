"""Images uploaded to Replicate's files before the creation: each once, within the second window, without a
slot."""

import asyncio
from io import BytesIO

import pytest
from aiohttp import ClientSession

from catalog.references import INLINE, Upload
from errors import UpstreamError
from providers.connections import Lost
from providers.replicate.uploads import AT_ONCE, GOOD_FOR, TRIES, Uploads
from tests.support import virtual_time
from tests.support.callers import PNG, SERVER_TOKEN
from tests.support.declarations import parse_generation
from tests.support.wiring import ADMIN, USER, meanwhile, on_a_loop, parts, run, until

LARGE = PNG.ljust(INLINE + 1)


def an_image() -> Upload:
    return Upload(BytesIO(LARGE))


def test_a_shared_image_is_read_whole_while_another_part_reads_it():
    image = an_image()
    reader, other = image.reader(), image.reader()
    begin = reader.read(1000)

    assert LARGE == image.content()
    assert LARGE == other.read()
    assert LARGE == begin + reader.read()


@on_a_loop
async def test_an_image_is_uploaded_whole_though_each_read_moves_the_position_of_its_file(simulator):
    class Shared(BytesIO):
        def read(self, size=-1):
            found = super().read(size)
            self.seek(0, 2)  # as a check of the same image does
            return found

    async with parts(simulator) as service:
        address = await service.provider.upload(ADMIN, Upload(Shared(LARGE)))
        headers = {"Authorization": f"Bearer {SERVER_TOKEN}"}
        async with ClientSession(headers=headers) as session, session.get(address) as answer:
            assert len(LARGE) == (await answer.json())["size"]


def editing(image: Upload, prompt: str = "a", **fields):
    return parse_generation({"model_name": "kontext-max", "prompt": prompt, "input_image": image, **fields})


@on_a_loop
async def test_an_upload_takes_a_place_in_the_second_window_and_none_in_that_of_creations(simulator):
    async with parts(simulator) as service:
        await service.provider.upload(ADMIN, an_image())

        assert (0, 1) == tuple(
            gate.statistics().current_rate_per_minute for gate in (service.gate, service.others)
        )
    assert {"file": 1} == dict(simulator.counts().requests)


@on_a_loop
async def test_nothing_is_uploaded_while_the_second_window_is_full(simulator):
    async with parts(simulator, others_per_minute=1) as service:
        with await service.others.acquire("somebody") as lease:
            lease.sent()
        upload = asyncio.create_task(service.provider.upload(ADMIN, an_image()))
        await asyncio.sleep(0.1)

        assert {} == dict(simulator.counts().requests)
        upload.cancel()
        await asyncio.wait([upload])


@on_a_loop
async def test_an_upload_holds_no_slot(simulator):
    simulator.inject(on="file", delay=30)
    async with parts(simulator, concurrent_limit=1) as service:
        editor = asyncio.create_task(run(service.core, editing(an_image())))
        await until(lambda: simulator.counts().requests.get("file"))
        assert 0 == service.gate.statistics().current_concurrent
        await service.run("another")

        assert (await meanwhile(simulator.respond, editor)).succeeded


FAULTS = {
    "429": ({"status": 429, "headers": {"Retry-After": "0"}, "body": {}}, True),
    "500": ({"status": 500}, True),
    "503": ({"status": 503}, True),
    "reset before": ({"reset": "before"}, True),
    "reset after": ({"reset": "after"}, True),
    "no JSON": ({"garbage": True}, True),
    "cut": ({"truncate": True}, True),
    "no urls": ({"drop": ["urls"]}, True),
    "an odd address": ({"set": {"urls": {"get": 7}}}, True),
    "refused": ({"status": 400}, False),
    "too large": ({"status": 413}, False),
}


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "passes"), FAULTS.values(), ids=FAULTS)
@on_a_loop
async def test_a_temporarily_failed_upload_is_retried_without_cost(simulator, fault, passes):
    simulator.inject(on="file", times=2, **fault)
    async with parts(simulator) as service:
        ended = await run(service.core, editing(an_image()))

    assert passes is ended.succeeded, ended.error
    assert int(passes) == simulator.counts().creations_accepted
    if passes:
        (made,) = simulator.predictions()
        assert made.input["input_image"] == f"{simulator.url}/v1/files/{simulator.uploads()[-1].id}"


@on_a_loop
async def test_no_prediction_is_created_if_an_upload_never_succeeds(simulator):
    simulator.inject(on="file", times=100, status=500)
    async with parts(simulator) as service:
        ended = await run(service.core, editing(an_image()))

    assert ("upstream_error", 0) == (ended.error.code, simulator.counts().creations_accepted)
    assert 4 == simulator.counts().requests["file"]


@on_a_loop
async def test_a_refused_account_gets_its_error_before_anything_is_created(simulator):
    simulator.account("r8_user", reject=True)
    async with parts(simulator) as service:
        ended = await run(service.core, editing(an_image()), caller=USER)

    assert "replicate_token_rejected" == ended.error.code
    assert {"file": 1, "account": 1} == simulator.counts().requests


@pytest.mark.parametrize("fault", [{"status": 401}, {"status": 403}, {"status": 403, "body": "<html>"}])
@on_a_loop
async def test_an_upload_is_retried_if_its_token_is_refused_temporarily(simulator, fault):
    simulator.inject(on="file", **fault)
    async with parts(simulator) as service:
        ended = await run(service.core, editing(an_image()))

    assert (True, 2) == (ended.succeeded, simulator.counts().requests["file"])


@on_a_loop
async def test_an_image_is_not_uploaded_again_for_a_second_model(simulator):
    async with parts(simulator) as service:
        request = editing(an_image(), "[[only=flux-kontext-max]] [[nsfw]]", fallback=True)
        ended = await run(service.core, request)

    assert ended.succeeded
    assert 1 == len(simulator.uploads())
    first, second = simulator.predictions()
    assert first.input["input_image"] == second.input["image"]


class FakeFiles:
    """A substitute for Replicate's files: each upload takes a second, and some fail."""

    def __init__(self, *outcomes) -> None:
        self._outcomes = list(outcomes)
        self.under_way = self.most = self.number = self.done = 0

    async def __call__(self, caller, upload):  # noqa: ARG002
        self.number += 1
        number = self.number
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(1)
        self.under_way -= 1
        self.done += 1
        if self._outcomes:
            raise self._outcomes.pop(0)
        return f"https://api.replicate.com/v1/files/{number}"


@pytest.mark.parametrize(("failures", "sent"), [(0, 1), (2, 3), (3, 4)])
def test_generations_that_share_an_image_share_its_upload_and_its_retries(failures, sent):
    async def scenario():
        send, image = FakeFiles(*[Lost("cut")] * failures), an_image()
        uploads = Uploads(send)
        return await asyncio.gather(*(uploads.address(ADMIN, image) for _ in range(20))), send.number

    addresses, number = virtual_time.run(scenario())
    assert ({f"https://api.replicate.com/v1/files/{sent}"}, sent) == (set(addresses), number)


def test_a_final_failure_of_an_upload_fails_all_generations_that_share_it():
    async def scenario():
        send, image = FakeFiles(*[Lost("cut")] * 100), an_image()
        uploads = Uploads(send)
        first = await asyncio.gather(
            *(uploads.address(ADMIN, image) for _ in range(20)), return_exceptions=True
        )
        with pytest.raises(UpstreamError):
            await uploads.address(ADMIN, image)
        return first, send.number

    failed, number = virtual_time.run(scenario())
    assert ([UpstreamError] * 20, TRIES) == ([type(each) for each in failed], number)


def test_a_cancelled_wait_leaves_the_upload_to_the_others():
    async def scenario():
        send, image = FakeFiles(), an_image()
        uploads = Uploads(send)
        gone = asyncio.create_task(uploads.address(ADMIN, image))
        await asyncio.sleep(0.5)
        stays = asyncio.create_task(uploads.address(ADMIN, image))
        await asyncio.sleep(0)
        gone.cancel()
        return await stays, send.number

    assert ("https://api.replicate.com/v1/files/1", 1) == virtual_time.run(scenario())


def test_an_upload_that_no_generation_waits_for_is_cancelled_and_may_begin_again():
    async def scenario():
        send, image = FakeFiles(), an_image()
        uploads = Uploads(send)
        gone = asyncio.create_task(uploads.address(ADMIN, image))
        await asyncio.sleep(0.5)
        gone.cancel()
        await asyncio.sleep(5)
        return send.done, await uploads.address(ADMIN, image)

    assert (0, "https://api.replicate.com/v1/files/2") == virtual_time.run(scenario())


def test_an_address_is_used_for_20_of_the_24_hours_that_it_is_valid():
    async def scenario():
        send, image = FakeFiles(), an_image()
        uploads = Uploads(send)
        await uploads.address(ADMIN, image)
        await asyncio.sleep(GOOD_FOR - 2)
        before = await uploads.address(ADMIN, image)
        await asyncio.sleep(3)
        return before, await uploads.address(ADMIN, image)

    assert (
        "https://api.replicate.com/v1/files/1",
        "https://api.replicate.com/v1/files/2",
    ) == virtual_time.run(scenario())


def test_concurrent_uploads_leave_room_for_polls():
    async def scenario():
        send = FakeFiles()
        uploads = Uploads(send)
        await asyncio.gather(*(uploads.address(ADMIN, an_image()) for _ in range(3 * AT_ONCE)))
        return send.most, asyncio.get_running_loop().time()

    assert (AT_ONCE, 3.0) == virtual_time.run(scenario())


@on_a_loop
async def test_each_upload_is_sent_with_its_callers_token(simulator):
    async with parts(simulator) as service:
        for caller in (ADMIN, USER):
            await service.provider.upload(caller, an_image())

    assert [ADMIN.credentials["replicate"], USER.credentials["replicate"]] == [
        each.token for each in simulator.uploads()
    ]
