"""Warnings and presets in answers: shown at once, and kept with the generation."""

from tests.support.callers import ADMIN
from tests.support.declarations import find

RETIRED = f"imagen-4-ultra is retired. {find('imagen-4-ultra').retired}"


def generate(client, **body):
    return client.post("/generate", json={"prompt": "a fox", **body}, headers=ADMIN).json


def test_a_generation_by_a_retired_model_has_a_warning_that_is_kept(client):
    made = generate(client, model_name="imagen-4-ultra")

    assert (True, [RETIRED]) == (made["success"], made["warnings"])
    assert [RETIRED] == client.get(f"/generations/{made['id']}", headers=ADMIN).json["warnings"]
    assert [RETIRED] == generate(client, model_name="imagen-4-ultra", dry_run=True)["warnings"]


def test_a_generation_without_a_warning_has_no_such_field(client):
    assert "warnings" not in generate(client, model_name="flux-schnell")


def test_each_item_of_a_batch_has_its_own_warnings(client):
    requests = [{"model_name": name, "prompt": "a"} for name in ("flux-schnell", "imagen-4-ultra")]
    answer = client.post("/generate-batch", json={"requests": requests}, headers=ADMIN).json

    assert [None, [RETIRED]] == [each.get("warnings") for each in answer["results"]]


def test_the_shape_that_a_preset_picked_is_sent_and_told(client, simulator):
    made = generate(client, model_name="flux-schnell", preset="portrait")

    assert "9:16" == simulator.predictions()[-1].input["aspect_ratio"]
    assert [
        {
            "field": "preset",
            "change": "mapped",
            "given": "portrait",
            "sent_as": "aspect_ratio",
            "sent": "9:16",
        }
    ] == made["changes"]


def test_in_a_fallback_each_attempt_tells_the_shape_that_it_was_sent(client, simulator):
    made = generate(
        client,
        model_name="flux-schnell",
        prompt="[[only=flux-schnell]] [[nsfw]]",
        preset="square",
        fallback=["recraft-v4"],
    )

    assert ["1:1", "1:1"] == [each.input["aspect_ratio"] for each in simulator.predictions()]
    assert [["1:1"], ["1:1"]] == [[each["sent"] for each in it["changes"]] for it in made["attempts"]]
