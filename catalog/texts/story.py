"""The schema of cinematic stories, and checks between their parts that no schema can express.

Names of characters must be in the list of characters, chapters must have every scene once, and texts must fit the
platforms that they are for. A story that breaks this is usable, so the breaches are warnings.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

from catalog.texts.validation import ROOT, Violation

MOST_CHARACTERS: Final = 20
MOST_HASHTAGS: Final = 10
LONGEST: Final = {
    "story_title": 100,
    "youtube_video_title": 100,
    "youtube_video_description": 4000,
    "tweet": 240,
}
"""The most characters of a text, without the spaces around it."""

_VARIANTS: Final = ("story_title", "youtube_video_title")
"""Texts that may have several variants, separated by `|`. Each may be as long."""

_FILE: Final = Path(__file__).with_name("story.json")


def story_schema(voice_ids: Sequence[str] = ()) -> dict[str, Any]:
    """The JSON Schema of a story. With voices, the narrator has one of these."""
    schema: dict[str, Any] = json.loads(_text())
    if voice_ids:
        schema["properties"]["narrator_voice_id"] = {
            "type": "string",
            "description": "The voice that fits the narrator and the story best.",
            "enum": list(dict.fromkeys(voice_ids)),
        }
    return schema


def story_warnings(story: Mapping[str, Any], voice_ids: Sequence[str] = ()) -> list[Violation]:
    """The breaches of rules between the parts of a story that is valid by `story_schema(voice_ids)`, by path below
    `data`."""
    found = [*_lengths(story), *_hashtags(story), *_voice(story, voice_ids)]
    found += [*_characters(story), *_names(story), *_numbers(story), *_coverage(story)]
    return [Violation(f"{ROOT}.{each.path}", each.rule, each.message) for each in found]


@cache
def _text() -> str:
    return _FILE.read_text(encoding="utf-8")


def _lengths(story: Mapping[str, Any]) -> Iterator[Violation]:
    for name, most in LONGEST.items():
        variants = story[name].split("|") if name in _VARIANTS else [story[name]]
        for number, variant in enumerate(variants, start=1):
            length = len(variant.strip())
            if length > most:
                which = f"variant {number} " if len(variants) > 1 else ""
                message = f"{which}must have at most {most} characters; it has {length}"
                yield Violation(name, f"maxLength {most}", message)


def _hashtags(story: Mapping[str, Any]) -> Iterator[Violation]:
    name = "youtube_video_hashtags"
    words = story[name].split()
    if len(words) > MOST_HASHTAGS:
        message = f"must have at most {MOST_HASHTAGS} hashtags; it has {len(words)}"
        yield Violation(name, f"maxItems {MOST_HASHTAGS}", message)
    for word in words:
        if not word.startswith("#") or word.count("#") != 1 or len(word) == 1:
            yield Violation(name, "hashtag", f"{_quoted(word)} must be a word that begins with #")


def _voice(story: Mapping[str, Any], voice_ids: Sequence[str]) -> Iterator[Violation]:
    if not voice_ids and story["narrator_voice_id"]:
        yield Violation("narrator_voice_id", "voice", "must be empty without a voice_id_list")


def _characters(story: Mapping[str, Any]) -> Iterator[Violation]:
    count = len(story["character_list"])
    if count > MOST_CHARACTERS:
        message = f"must have at most {MOST_CHARACTERS} characters; it has {count}"
        yield Violation("character_list", f"maxItems {MOST_CHARACTERS}", message)
    yield from _repeated(story, "character_list", "character_name")


def _names(story: Mapping[str, Any]) -> Iterator[Violation]:
    """Names of characters that are not in the list of characters. A scene may have no major character."""
    known = {each["character_name"] for each in story["character_list"]}
    for path, name in _named(story):
        if name not in known:
            yield Violation(path, "character", f"{_quoted(name)} must be a name in character_list")


def _named(story: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for index, name in enumerate(story["cover_image_characters"]):
        yield f"cover_image_characters[{index}]", name
    for number, scene in enumerate(story["scene_list"]):
        path = f"scene_list[{number}]"
        if scene["scene_major_character"]:
            yield f"{path}.scene_major_character", scene["scene_major_character"]
        for index, name in enumerate(scene["scene_other_characters"]):
            yield f"{path}.scene_other_characters[{index}]", name


def _numbers(story: Mapping[str, Any]) -> Iterator[Violation]:
    yield from _repeated(story, "character_list", "character_number")
    yield from _repeated(story, "chapter_list", "chapter_number")
    yield from _repeated(story, "scene_list", "scene_number")


def _repeated(story: Mapping[str, Any], items: str, name: str) -> Iterator[Violation]:
    """Values of a field that an earlier item has, too."""
    seen = set()
    for index, each in enumerate(story[items]):
        value = each[name]
        if value in seen:
            yield Violation(f"{items}[{index}].{name}", "unique", f"{_quoted(value)} is repeated")
        seen.add(value)


def _coverage(story: Mapping[str, Any]) -> Iterator[Violation]:
    """Chapters must have every scene once, and only scenes that there are."""
    scenes = dict.fromkeys(each["scene_number"] for each in story["scene_list"])
    taken: Counter[int] = Counter()
    for number, chapter in enumerate(story["chapter_list"]):
        for index, scene in enumerate(chapter["chapter_scene_list"]):
            path = f"chapter_list[{number}].chapter_scene_list[{index}]"
            taken[scene] += 1
            if scene not in scenes:
                yield Violation(
                    path, "scene", f"{_quoted(scene)} must be the number of a scene in scene_list"
                )
            elif taken[scene] > 1:
                yield Violation(path, "unique", f"scene {_quoted(scene)} is in a chapter already")
    yield from _left_out(scenes, taken)


def _left_out(scenes: Iterable[int], taken: Mapping[int, int]) -> Iterator[Violation]:
    for scene in scenes:
        if not taken.get(scene):
            yield Violation("chapter_list", "scene", f"scene {_quoted(scene)} must be in a chapter")


_SHOWN: Final = 100


def _quoted(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
