"""The schema of cinematic stories, and the checks across their parts."""

import copy
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.texts.schema_check import schema_problems
from catalog.texts.story import story_schema, story_warnings
from catalog.texts.validation import Answers
from providers.gemini.schemas import sent_schema

FIELDS = {
    "illustration_style", "story_title", "youtube_video_title", "youtube_video_description", "youtube_video_hashtags",
    "cover_image_description", "narrator_name", "narrator_gender", "narrator_voice_id", "cover_image_characters",
    "character_list", "chapter_list", "scene_list", "scene_audio_language", "tweet",
}  # fmt: skip


def character(number, name):
    return {"character_number": number, "character_name": name, "character_image_description": "Tall."}


def chapter(number, *scenes):
    return {"chapter_number": number, "chapter_name": "Rise", "chapter_scene_list": [*scenes]}


def scene(number, major, *others):
    return {
        "scene_number": number,
        "scene_name": "The village",
        "scene_image_description": "Fields at dawn.",
        "scene_major_character": major,
        "scene_other_characters": [*others],
        "scene_audio_script": "He was born a peasant.",
        "is_intentional_repetition": "no",
    }


STORY = {
    "illustration_style": "Ink on silk",
    "story_title": "Liu Bang|The Peasant Emperor",
    "youtube_video_title": "From Peasant to Emperor",
    "youtube_video_description": "How the Han began.",
    "youtube_video_hashtags": "#Han #History",
    "cover_image_description": "A man before a palace.",
    "cover_image_characters": ["liu bang"],
    "narrator_name": "Sima Qian",
    "narrator_gender": "male",
    "narrator_voice_id": "",
    "character_list": [character(1, "liu bang"), character(2, "xiang yu")],
    "chapter_list": [chapter(1, 1, 2), chapter(2, 3)],
    "scene_list": [scene(1, "liu bang"), scene(2, "xiang yu", "liu bang"), scene(3, "")],
    "scene_audio_language": "English",
    "tweet": "A peasant takes an empire.",
}


def changed(**fields):
    return {**copy.deepcopy(STORY), **fields}


def warned(story, voices=()):
    return {(each.path, each.rule) for each in story_warnings(story, voices)}


def test_the_schema_has_the_fields_of_the_family_all_required():
    schema = story_schema()

    assert FIELDS == schema["properties"].keys() == {*schema["required"]}
    assert [] == schema_problems(schema)
    assert [] == [*Answers(schema).check(STORY)]


def test_every_part_of_the_schema_is_described_and_read_by_the_provider():
    schema = story_schema()
    lists = [schema["properties"][each]["items"] for each in ("character_list", "chapter_list", "scene_list")]

    assert schema == sent_schema(schema)
    assert all(each["description"] for part in (schema, *lists) for each in part["properties"].values())
    assert all({*part["properties"]} == {*part["required"]} for part in lists)


def test_a_good_story_has_no_warnings():
    assert set() == warned(STORY)


def test_a_voice_is_one_of_the_list_and_empty_without_a_list():
    answers = Answers(story_schema(["deep", "soft", "deep"]))

    assert ["deep", "soft"] == story_schema(["deep", "soft", "deep"])["properties"]["narrator_voice_id"][
        "enum"
    ]
    assert set() == warned(changed(narrator_voice_id="deep"), ["deep", "soft"])
    assert {("data.narrator_voice_id", "voice")} == warned(changed(narrator_voice_id="deep"))
    assert [] == [*answers.check(changed(narrator_voice_id="soft"))]
    assert ["data.narrator_voice_id"] == [
        each.path for each in answers.check(changed(narrator_voice_id="loud"))
    ]


def test_the_list_of_voices_of_one_request_is_not_that_of_the_next():
    story_schema(["deep"])

    assert "enum" not in story_schema()["properties"]["narrator_voice_id"]


def test_every_name_must_be_that_of_a_character():
    story = changed(cover_image_characters=["liu bang", "Liu Bang"])
    story["scene_list"][0]["scene_major_character"] = "sima qian"
    story["scene_list"][1]["scene_other_characters"] = ["liu bang", "an unknown"]

    assert {
        ("data.cover_image_characters[1]", "character"),
        ("data.scene_list[0].scene_major_character", "character"),
        ("data.scene_list[1].scene_other_characters[1]", "character"),
    } == warned(story)


def test_chapters_have_every_scene_once():
    story = changed(chapter_list=[chapter(1, 1, 1), chapter(2, 1, 4)])

    assert {
        ("data.chapter_list[0].chapter_scene_list[1]", "unique"),
        ("data.chapter_list[1].chapter_scene_list[0]", "unique"),
        ("data.chapter_list[1].chapter_scene_list[1]", "scene"),
        ("data.chapter_list", "scene"),
    } == warned(story)
    left_out = [each.message for each in story_warnings(story) if each.path == "data.chapter_list"]
    assert ["scene 2 must be in a chapter", "scene 3 must be in a chapter"] == left_out


def test_numbers_and_names_are_unique():
    story = changed(
        character_list=[character(1, "liu bang"), character(1, "liu bang"), character(3, "xiang yu")],
        scene_list=[scene(1, ""), scene(2, ""), scene(3, ""), scene(2, "")],
        chapter_list=[chapter(1, 1, 2), chapter(1, 3)],
    )

    assert {
        ("data.character_list[1].character_name", "unique"),
        ("data.character_list[1].character_number", "unique"),
        ("data.scene_list[3].scene_number", "unique"),
        ("data.chapter_list[1].chapter_number", "unique"),
    } == warned(story)


@pytest.mark.parametrize(
    ("name", "most"), [("youtube_video_title", 100), ("youtube_video_description", 4000), ("tweet", 240)]
)
def test_a_text_fits_its_platform(name, most):
    assert set() == warned(changed(**{name: "é" * most}))
    assert {(f"data.{name}", f"maxLength {most}")} == warned(changed(**{name: "é" * (most + 1)}))


def test_each_variant_of_a_title_has_the_whole_length():
    good, long = "x" * 100, "x" * 101

    assert set() == warned(changed(youtube_video_title=f"{good} | {good}|{good}"))
    found = story_warnings(changed(youtube_video_title=f"{good}|{long}"))
    assert ["variant 2 must have at most 100 characters; it has 101"] == [each.message for each in found]
    assert {("data.tweet", "maxLength 240")} == warned(changed(tweet="|".join(["x" * 100] * 3)))


def test_hashtags_begin_with_a_hash_and_are_at_most_ten():
    ten = " ".join(f"#tag{each}" for each in range(10))

    assert set() == warned(changed(youtube_video_hashtags=ten))
    assert {("data.youtube_video_hashtags", "maxItems 10")} == warned(
        changed(youtube_video_hashtags=f"{ten} #more")
    )
    messages = [each.message for each in story_warnings(changed(youtube_video_hashtags="#a, b # #c#d"))]
    assert [f"{each} must be a word that begins with #" for each in ('"b"', '"#"', '"#c#d"')] == messages


def test_there_are_at_most_twenty_characters():
    cast = [character(each, f"n{each}") for each in range(1, 20)]
    story = changed(character_list=[character(0, "liu bang"), *cast, character(20, "xiang yu")])

    assert {("data.character_list", "maxItems 20")} == warned(story)


@given(
    st.permutations(range(1, 9)),
    st.lists(st.integers(0, 8), max_size=3),
)
def test_chapters_that_divide_the_scenes_in_any_way_are_fine(order, cuts):
    edges = [0, *sorted(cuts), 8]
    chapters = [chapter(number, *order[start:end]) for number, (start, end) in enumerate(pairwise(edges))]

    assert set() == warned(
        changed(scene_list=[scene(each, "") for each in range(1, 9)], chapter_list=chapters)
    )


NAMES = st.text(alphabet="ab |#", max_size=3)


@given(st.data())
def test_any_story_that_fits_the_schema_is_checked_without_an_error(data):
    integers = st.integers(-1, 3)
    story = changed(
        youtube_video_title=data.draw(NAMES),
        youtube_video_hashtags=data.draw(NAMES),
        cover_image_characters=data.draw(st.lists(NAMES, max_size=2)),
        character_list=data.draw(st.lists(st.builds(character, integers, NAMES), max_size=2)),
        chapter_list=data.draw(st.lists(st.builds(chapter, integers, integers), max_size=2)),
        scene_list=data.draw(st.lists(st.builds(scene, integers, NAMES, NAMES), max_size=2)),
    )

    assert [] == [*Answers(story_schema()).check(story)]
    assert all(each.path.startswith("data.") for each in story_warnings(story))
