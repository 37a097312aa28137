"""Both clients, over sockets, to a real service before the simulator."""

import asyncio

import pytest
from replicate_concurrent import AsyncClient, Client, GenerationFailed, InvalidRequest, NotFound, TimedOut

from tests.client.conftest import ADMIN

pytestmark = pytest.mark.slow


@pytest.fixture
def client(service):
    with Client(service.url, ADMIN) as made:
        yield made


def on_asyncio(service, work):
    """The result of `work(client)`, which is awaited."""

    async def run():
        async with AsyncClient(service.url, ADMIN) as client:
            return await work(client)

    return asyncio.run(run())


def test_a_prompt_becomes_a_picture(client):
    made = client.generate("A red fox", model="flux-dev", aspect_ratio="16:9", metadata={"project": "web"})

    assert ("succeeded", True, "black-forest-labs/flux-dev", 1) == (
        made.status, made.success, made.model_name, len(made.files),
    )  # fmt: skip
    assert {"project": "web"} == made.raw["metadata"]
    assert 0.025 == made.cost_usd


def test_a_prompt_becomes_a_picture_on_asyncio(service):
    made = on_asyncio(
        service,
        lambda client: asyncio.gather(*[client.generate(f"fox {n}", model="flux-dev") for n in range(5)]),
    )

    assert [f"fox {n}" for n in range(5)] == [each.prompt for each in made]


def test_the_same_key_is_the_same_generation(client):
    first, second = (client.submit("A fox", model="flux-dev", idempotency_key="fox-1") for _ in range(2))

    assert first.id == second.id
    assert first.wait().id == client.handle(first.id).status().id


def test_a_generation_that_failed_is_raised_and_looking_at_it_is_not(client):
    with pytest.raises(GenerationFailed) as failed:
        client.generate("[[fail]] A fox", model="flux-dev")

    assert "generation_failed" == failed.value.code
    assert failed.value.request_id.startswith("req_")
    assert "failed" == client.handle(failed.value.id).status().status
    with pytest.raises(GenerationFailed):
        client.handle(failed.value.id).wait()


def test_a_handle_waits_and_cancels_on_asyncio(service):
    async def work(client):
        handle = await client.submit("[[hang]] A fox", model="flux-dev")
        with pytest.raises(TimedOut):
            await handle.wait(timeout=0.1)
        return await handle.cancel()

    assert "canceled" == on_asyncio(service, work).status


def test_all_mistakes_are_named(client):
    with pytest.raises(InvalidRequest) as refused:
        client.generate("A fox", model="flux-dev", num_inference_steps=99, guidence=3)

    assert ["guidence", "num_inference_steps"] == sorted(each.field for each in refused.value.fields)


def test_an_id_that_does_not_exist_is_not_found(client):
    with pytest.raises(NotFound):
        client.handle("gen_none").wait()


def test_any_other_request_has_the_key_too(client):
    assert "ok" == client.request("GET", "/status").json()["ledger"]
