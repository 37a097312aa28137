"""Trainings by both clients, over sockets, of a real service before the simulator."""

import asyncio
import tarfile

import pytest
from replicate_concurrent import (
    AsyncClient,
    Canceled,
    Client,
    GenerationFailed,
    InvalidRequest,
    NotFound,
    OutputLost,
    TimedOut,
)

from tests.client.conftest import ADMIN

pytestmark = pytest.mark.slow

DOG = {"trainer": "ostris/flux-dev-lora-trainer", "destination": "dog", "create_destination": True}


@pytest.fixture
def client(service):
    with Client(service.url, ADMIN) as made:
        yield made


def test_a_folder_becomes_a_model_that_generates_and_weights(client, photos, tmp_path):
    handle = client.train(photos, trigger_word="TOK", input={"steps": 100}, **DOG)
    looks = []
    made = handle.wait(on_progress=looks.append)

    assert ("succeeded", True, 5, 1, "TOK") == (
        made.status, made.success, made.images, made.captions, made.trigger_word,
    )  # fmt: skip
    assert (False, True) == (looks[0].has_ended, looks[-1].has_ended)
    assert {"steps": 100} == made.raw["input"]
    path = handle.save_weights(tmp_path / "weights", "{model}.{ext}")
    assert "dog.tar" == path.name
    with tarfile.open(path) as archive:
        assert "lora.safetensors" in {each.rpartition("/")[2] for each in archive.getnames()}
    assert client.generate("A photo of TOK", model=made.model).success


def test_a_list_becomes_a_model_on_asyncio(service, photos, tmp_path):
    async def work():
        async with AsyncClient(service.url, ADMIN) as client:
            plan = await client.estimate_training([*photos.iterdir()], **DOG)
            handle = await client.train([*photos.iterdir()], metadata={"project": "async"}, **DOG)
            names = [each.name async for each in handle.events()]
            path = await handle.save_weights(tmp_path)
            await handle.delete_weights()
            listed = [each.id async for each in client.trainings(metadata={"project": "async"})]
            return plan, handle.id, names, path, listed, await client.training(handle.id)

    plan, target, names, path, listed, made = asyncio.run(work())
    assert (5, 1) == (plan.images, plan.captions)
    assert plan.estimated_cost_usd < plan.cost_bound_usd
    assert ("queued", "done") == (names[0], names[-1])
    assert (f"{target}.tar", [target], True, None) == (path.name, listed, made.success, made.weights)


def test_the_same_key_is_the_same_training(client, photos):
    ids = {client.train(photos, idempotency_key="dog-1", **DOG).id for _ in range(2)}

    assert 1 == len(ids)


def test_weights_that_are_deleted_are_lost_and_deleted_again_without_an_error(client, photos, tmp_path):
    handle = client.train(photos, **DOG)
    handle.wait()
    handle.delete_weights()
    handle.delete_weights()

    with pytest.raises(OutputLost):
        handle.save_weights(tmp_path)
    with pytest.raises(NotFound):
        client.training_handle("trn_none").delete_weights()


def test_all_mistakes_are_named(client, photos):
    with pytest.raises(InvalidRequest) as refused:
        client.train(photos, trainer=DOG["trainer"], destination="missing", input={"training_steps": 5})

    assert {"input.training_steps"} == {each.field for each in refused.value.fields}
    (photos / "dog0.jpg").write_bytes(b"no image")
    with pytest.raises(InvalidRequest) as refused:
        client.train(photos, trainer=DOG["trainer"], destination="missing")
    assert "images[dog0.jpg]" in {each.field for each in refused.value.fields}


def test_a_training_that_fails_or_is_cancelled_raises_its_error(client, photos):
    failed = client.train(photos, trigger_word="TOK [[fail]]", **DOG)
    with pytest.raises(GenerationFailed):
        failed.wait()
    assert "failed" == failed.status().status

    handle = client.train(photos, trigger_word="TOK [[slow=60]]", **DOG)
    with pytest.raises(TimedOut):
        handle.wait(timeout=0.1)
    assert "canceled" == handle.cancel().status
    with pytest.raises(Canceled):
        handle.wait()
