"""Ties the parts of a made-up story together, as a good model would.

An answer by the schema of cinematic stories is known by its fields. As a plain instance it names characters and scenes
that it does not have. The mark `[[untied]]` leaves it so.
"""

from typing import Any

_MARKS = ("scene_list", "chapter_list", "character_list")
_HASHTAGS = "#story #fox #lamp"


def tie(value: Any, schema: Any) -> Any:
    """The story with names, numbers and hashtags that fit each other. Another value is returned as it is.

    The voice of its narrator is empty if the schema names none.
    """
    if not isinstance(value, dict) or not all(isinstance(value.get(each), list) for each in _MARKS):
        return value
    scenes, chapters, characters = (
        [dict(each) for each in value[name] if isinstance(each, dict)] for name in _MARKS
    )
    chapters = chapters[: len(scenes)]
    names = [f"{each.get('character_name', 'fox')!s} {number}" for number, each in enumerate(characters, 1)]
    for number, (character, name) in enumerate(zip(characters, names, strict=True), 1):
        character |= {"character_number": number, "character_name": name}
    for number, scene in enumerate(scenes, 1):
        major = names[(number - 1) % len(names)] if names else ""
        others = [name for name in names[:2] if name != major]
        scene |= {"scene_number": number, "scene_major_character": major, "scene_other_characters": others}
    numbers = list(range(1, len(scenes) + 1))
    for number, chapter in enumerate(chapters, 1):
        share = numbers[number - 1 :] if number == len(chapters) else numbers[number - 1 : number]
        chapter |= {"chapter_number": number, "chapter_scene_list": share}
    tied = {**value, "scene_list": scenes, "chapter_list": chapters, "character_list": characters}
    voice = schema.get("properties", {}).get("narrator_voice_id", {}) if isinstance(schema, dict) else {}
    fitting = {"cover_image_characters": names[:2], "youtube_video_hashtags": _HASHTAGS}
    if "enum" not in voice:
        fitting["narrator_voice_id"] = ""
    return tied | {name: each for name, each in fitting.items() if name in value}
