"""Rules and a service that judge the texts of trainings: words, inputs and the captions in the zip."""

import pytest

from harness.safety_service import by_words, judging
from tests.support.training_calls import train, trained, zip_of
from tests.support.zips import image

RULES = """
[[rules]]
category = "weapons"
words = ["sword"]
"""
QWEN = "qwen/qwen-image-lora-trainer"


@pytest.fixture
def client(make_app, tmp_path):
    path = tmp_path / "rules.toml"
    path.write_text(RULES)
    return make_app(REPLICATE_SIMULATE=1, SAFETY_FILE=path).test_client()


@pytest.mark.parametrize(
    ("fields", "files", "field"),
    [
        ({"trigger_word": "sword"}, (), "trigger_word"),
        ({"trigger_word": "sword", "trainer": QWEN}, (), "trigger_word"),
        ({"trigger_word": "sword", "trainer": "stability-ai/sdxl"}, (), "trigger_word"),
        ({"input.autocaption_prefix": "a sword of"}, (), "input.autocaption_prefix"),
        ({}, (("a.jpg", image()), ("a.txt", b"a sword")), "images[a.txt]"),
        (
            {},
            (("a.zip", zip_of({"x/a.jpg": image(), "x/a.txt": b"\xef\xbb\xbfa SWORD"})),),
            "images[x/a.txt]",
        ),
    ],
)
def test_rules_for_prompts_hold_for_the_texts_of_a_training(client, simulator, fields, files, field):
    answer = train(client, *files, **fields)
    assert (422, "content_refused", "before") == (
        answer.status_code,
        answer.json["code"],
        answer.json["stage"],
    )
    assert [field] == [each["field"] for each in answer.json["errors"]]
    assert {"train", "file", "model_create"}.isdisjoint(simulator.counts().requests)


def test_a_service_judges_the_words_and_the_captions(make_app, simulator):
    with judging(by_words({"sword": "weapons"})) as judge:
        client = make_app(REPLICATE_SIMULATE=1, SAFETY_URL=f"{judge.url}/judge").test_client()
        files = ("a.jpg", image()), ("a.txt", b"a sword")
        body = trained(client, train(client, *files, trainer=QWEN, trigger_word="xyz").json["id"])
        assert ("failed", "content_refused") == (body["status"], body["error"]["code"])
        assert ["xyz\n\na sword"] == judge.prompts
        assert "succeeded" == trained(client, train(client).json["id"])["status"]
    assert 1 == len(simulator.trainings())
