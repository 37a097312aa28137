"""Both clients, over sockets, to a real service before the simulator."""

import asyncio
import dataclasses
from base64 import b64decode, b64encode
from io import BytesIO

import pytest
from PIL import Image, ImageChops
from replicate_concurrent import (
    AsyncClient,
    Client,
    GenerationFailed,
    InvalidRequest,
    NotFound,
    OutputLost,
    TimedOut,
)

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


PNG = (
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x06\x00\x00\x00\x1f\x15\xc4\x89\x00\x00\x00\r"
    b"IDATx\x9cc\xf8\xcf\xc0\xf0\x1f\x00\x05\x00\x01\xff\x89\x99=\x1d\x00\x00\x00\x00IEND\xaeB`\x82"
)


def test_an_output_is_saved_under_its_name(client, tmp_path):
    made = client.generate("A red fox", model="flux-dev", output_format="png", num_outputs=2)

    paths = made.save(tmp_path / "out", "{slug}.{ext}")

    assert [tmp_path / "out" / "a-red-fox.png", tmp_path / "out" / "a-red-fox-2.png"] == paths
    assert {b"\x89PNG"} == {path.read_bytes()[:4] for path in paths}
    with pytest.raises(FileExistsError):
        made.save(tmp_path / "out", "{slug}.{ext}")


def test_an_output_is_saved_on_asyncio(service, tmp_path):
    async def work(client):
        handle = await client.submit("A red fox", model="flux-dev")
        return await handle.save(tmp_path, "fox.{ext}"), await client.save(await handle.wait(), tmp_path)

    assert ([tmp_path / "fox.jpg"], 1) == (lambda first, second: (first, len(second)))(
        *on_asyncio(service, work)
    )


def test_a_deleted_output_comes_from_replicate_while_that_keeps_it(client, service, simulator, tmp_path):
    made = client.generate("A red fox", model="flux-dev")
    gone = dataclasses.replace(made, files=(f"{service.url}/files/{made.id}/gone.jpg",))

    [path] = client.save(gone, tmp_path)

    assert path.read_bytes() == made.save(tmp_path, "kept.{ext}")[0].read_bytes()
    simulator.reset()
    with pytest.raises(OutputLost):
        gone.save(tmp_path, "lost.{ext}")


@pytest.mark.parametrize("kind", ["path", "text", "bytes", "file"])
def test_a_local_file_is_a_reference(client, simulator, tmp_path, kind):
    path = tmp_path / "fox.png"
    path.write_bytes(PNG)
    with path.open("rb") as file:
        made = client.generate(
            "Make it blue",
            model="flux-kontext-max",
            input_image={"path": path, "text": str(path), "bytes": PNG, "file": file}[kind],
            aspect_ratio="1:1",
        )

    assert made.success
    [sent] = [each.input for each in simulator.predictions() if each.id == made.raw["prediction_id"]]
    assert b64encode(PNG).decode() in sent["input_image"]


def test_a_file_is_uploaded_once_for_several_generations(client, service, simulator, tmp_path):
    (tmp_path / "fox.png").write_bytes(PNG)
    kept = client.upload(tmp_path / "fox.png")
    (tmp_path / "fox.png").unlink()
    edit = {"model": "flux-kontext-max", "aspect_ratio": "1:1"}

    made = [
        client.generate("Make it blue", input_image=kept, **edit),
        client.generate("Make it red", input_image=kept.url, **edit),
        *client.batch(["Make it green", "Make it black"], input_image=kept, **edit),
        on_asyncio(service, lambda other: again(other, edit)),
    ]

    assert [True] * 5 == [each.success for each in made]
    ids = [each.raw["prediction_id"] for each in made]
    images = [each.input["input_image"] for each in simulator.predictions() if each.id in ids]
    assert [f"data:image/png;base64,{b64encode(PNG).decode()}"] * 5 == images
    assert ("fox.png", len(PNG)) == (kept.name, kept.size)


async def again(client, edit):
    return await client.generate("Make it pink", input_image=await client.upload(PNG), **edit)


@pytest.mark.parametrize("kept", ["PNG", "JPEG", None], ids=["png", "jpeg", "never saved"])
def test_an_image_of_pil_is_a_reference_with_the_same_pixels(client, simulator, tmp_path, kept):
    image = Image.new("RGB", (64, 48), "red")
    if kept is not None:
        image.save(tmp_path / "fox", kept)
        image = Image.open(tmp_path / "fox")

    made = client.generate("Make it blue", model="flux-kontext-max", input_image=image, aspect_ratio="1:1")

    [sent] = [each.input for each in simulator.predictions() if each.id == made.raw["prediction_id"]]
    got = Image.open(BytesIO(b64decode(sent["input_image"].partition(",")[2])))
    assert ((64, 48), kept or "PNG") == (got.size, got.format)
    differences = ImageChops.difference(image.convert("RGB"), got.convert("RGB")).getextrema()
    assert all(most <= 3 for _, most in differences)  # of 255


def test_numbers_that_are_texts_pass_through_a_form(client):
    made = client.generate("1234", model="flux-dev", image=PNG, megapixels="1", go_fast=True, seed=7)

    assert ("1234", True) == (made.prompt, made.success)


def test_a_batch_has_all_results_in_order(client, tmp_path):
    made = client.batch(["A fox", "[[fail]] A hare", "An owl"], model="flux-dev")

    assert [(0, True), (1, False), (2, True)] == [(each.index, each.success) for each in made]
    assert (3, 2, 1) == (made.total, made.succeeded, made.failed)
    assert "generation_failed" == made.results[1].error.code
    assert "0003-an-owl.jpg" == made.results[2].save(tmp_path, "{index:04d}-{slug}.{ext}")[0].name


def test_a_batch_of_requests_has_files_and_its_results_come_as_they_end(service, tmp_path):
    (tmp_path / "fox.png").write_bytes(PNG)
    requests = [
        {"prompt": "[[slow=0.6]] A fox"},
        {"model_name": "flux-kontext-max", "prompt": "Blue", "input_image": tmp_path / "fox.png"},
    ]

    async def work(client):
        handle = await client.submit_batch(requests=requests, model="flux-dev")
        return [each.index async for each in handle.results()], (await handle.wait()).success

    assert ([1, 0], True) == on_asyncio(service, work)


def test_events_lead_to_the_end(client, service):
    async def names(client):
        handle = await client.submit("A fox", model="flux-dev")
        return [each.name async for each in handle.events()]

    assert "done" == [each.name for each in client.submit("A fox", model="flux-dev").events()][-1]
    assert "done" == on_asyncio(service, names)[-1]


def test_the_service_is_looked_at_and_configured(client):
    client.generate("A hare", model="flux-dev")
    client.generate("A fox", model="flux-dev", metadata={"project": "looked-at"})

    assert "aspect_ratio" in client.model("flux-dev").input_schema["properties"]
    assert "qwen/qwen-image" in [each.name for each in client.models()]
    assert "acme/upscaler" in [each.name for each in client.models(search="upscaler")]
    assert 7 == client.configure(concurrent_limit=7).concurrent_limit == client.status().concurrent_limit
    assert 10 == client.configure(concurrent_limit=None).concurrent_limit
    assert 0.025 <= client.usage(group_by="model").usd
    assert ["A fox"] == [each.prompt for each in client.list(metadata={"project": "looked-at"})]
    assert 2 == len([*client.list(limit=2)])
    assert 0.05 == client.estimate(["A fox", "A hare"], model="flux-dev").estimated_cost_usd


def test_keys_are_made_changed_and_deleted(client, service):
    made = client.keys.create("shop", max_concurrent=5)
    with Client(service.url, made.key) as shop:
        assert made.id == shop.keys.self().id
    assert (
        2
        == client.keys.update(made.id, max_concurrent=2).max_concurrent
        == client.keys.get(made.id).max_concurrent
    )
    assert made.key != client.keys.rotate(made.id).key
    assert made.id in [each.id for each in client.keys.list()]
    client.keys.delete(made.id)
    client.keys.delete(made.id)
    assert made.id not in [each.id for each in client.keys.list()]
    assert "shop" == on_asyncio(service, lambda client: client.keys.get(made.id)).name
