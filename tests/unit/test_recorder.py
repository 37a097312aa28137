"""The recorder: two answers that differ in what they say are different, in ids and times alone they are equal."""

import pytest

from tests.support.kept_ledgers import DATA
from tests.support.recording.normal import Names
from tests.support.recording.recorder import differences, read
from tests.support.recording.steps import SCENES

ONE = {
    "id": "gen_" + "a" * 32,
    "cost_usd": 0.025,
    "timing": {"total": 1.5},
    "created_at": "2026-01-01T00:00:00.000Z",
}
OTHER = {
    "id": "gen_" + "b" * 32,
    "cost_usd": 0.025,
    "timing": {"total": 0.5},
    "created_at": "2026-02-02T00:00:00.123Z",
}


def recording(body):
    return {"scene": [{"asked": "GET /", "status": 200, "headers": {}, "body": Names().value(body)}]}


def test_answers_that_differ_in_ids_and_times_alone_are_equal():
    assert [] == differences(recording([ONE, ONE]), recording([OTHER, OTHER]))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([ONE, ONE], [ONE, OTHER]),
        (ONE, ONE | {"cost_usd": 0.03}),
        (ONE, ONE | {"created_at": None}),
        (ONE, ONE | {"new": None}),
        (ONE, dict(reversed(ONE.items()))),
        ({"success": True}, {"success": 1}),
    ],
    ids=["another id", "value", "kind of value", "field", "order of fields", "type"],
)
def test_answers_that_say_something_else_are_different(one, other):
    assert 1 == len(differences(recording(one), recording(other)))


def of_version(version, **more):
    health = {"asked": "GET /health by None", "status": 200, "headers": {}, "body": {"version": version}}
    page = {
        "asked": "GET /docs by None",
        "status": 200,
        "headers": {},
        "body": [f"Version {version}"],
        **more,
    }
    return {"scene": [page, health]}


def test_answers_of_two_versions_are_equal_if_they_differ_in_the_version_alone():
    assert [] == differences(of_version("0.4.0"), of_version("0.5.0"))
    assert 1 == len(differences(of_version("0.4.0"), of_version("0.5.0", body=["Version 0.4.0"])))


def test_the_kept_recording_has_an_answer_to_every_step():
    kept = read(DATA / "recording-0.7.0.json.xz")
    assert {scene.name: len(scene.steps) for scene in SCENES} == {
        name: len(each) for name, each in kept.items()
    }


def test_answers_that_differ_in_prose_alone_are_equal():
    assert [] == differences(recording({"title": "Queue is full"}), recording({"title": "Too many"}))
    assert 1 == len(differences(recording({"title": "Queue is full"}), recording({"title": None})))
    assert 1 == len(differences(recording({"title": "Queue is full"}), recording({})))
