"""Names of files from templates, prompts and tables."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from replicate_concurrent import filenames

DEVICES = ["CON", "nul", "Com1", "LPT9", "aux", "com¹"]


@pytest.mark.parametrize(
    ("prompt", "slug"),
    [
        ("A red fox, at dawn!", "a-red-fox-at-dawn"),
        ("  ", "untitled"),
        ("Füchse_im Schnee", "füchse-im-schnee"),
        ("赤い狐", "赤い狐"),
        ("../../etc/passwd", "etc-passwd"),
        (
            "a very long prompt about a fox that runs through the forest at night",
            "a-very-long-prompt-about-a-fox-that-runs-through",
        ),
        ("x" * 500, "x" * 48),
    ],
)
def test_a_slug_has_the_first_words_of_a_prompt(prompt, slug):
    assert slug == filenames.slug(prompt)


def test_a_template_takes_the_facts_known_before_the_generation_and_then_the_rest():
    name = filenames.rendered(filenames.BATCH, {"index": 7, "slug": "a-fox"})

    assert "0007-a-fox.{ext}" == name
    assert "0007-a-fox.png" == filenames.completed(name, extension=".png", generation="gen_1")


@pytest.mark.parametrize(
    "template",
    [
        "../{slug}.{ext}", "/tmp/{slug}.{ext}", "C:\\out\\{slug}.{ext}", "c:{slug}.{ext}", "a\\b.{ext}", "a//b.{ext}",
        "./a.{ext}", "a/../b.{ext}", "a/", "", "{slug.__class__}", "{slug[0]}", "{slug!r}", "{sulg}", "{slug",
        "{index:{slug}}", "{}", "{ext:>9}",
    ],
)  # fmt: skip
def test_a_template_that_is_no_name_below_the_directory_is_refused(template):
    with pytest.raises(ValueError, match=r"."):
        filenames.check(template, ["index", "slug"])


def test_a_template_may_name_directories_and_columns():
    filenames.check("{shelf}/{index:04d}-{id}.{ext}", ["index", "slug", "shelf"])

    assert "a_b/0001-{id}.{ext}" == filenames.rendered(
        "{shelf}/{index:04d}-{id}.{ext}", {"shelf": "a/b", "index": 1}
    )


def test_a_value_that_does_not_fit_its_format_is_an_error_about_the_field():
    with pytest.raises(ValueError, match=r"'seven' of \{number\} does not fit"):
        filenames.rendered("{number:03d}.{ext}", {"number": "seven"})


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("ending", ["", ".png", " .png", ". "])
def test_a_value_that_is_a_device_of_windows_does_not_stay_one(device, ending):
    name = filenames.rendered("{name}", {"name": device + ending})

    assert name.split(".")[0].strip().casefold() not in {each.casefold() for each in DEVICES}


@given(value=st.text(), index=st.integers(0, 10**6))
def test_any_value_gives_one_valid_part_of_a_path(value, index):
    name = filenames.rendered("{value}-{index}.{ext}", {"value": value, "index": index})
    done = filenames.completed(name, extension="png", generation="gen_1")

    assert not set('<>:"/\\|?*') & set(done)
    assert not [letter for letter in done if unicodedata.category(letter) == "Cc"]
    assert 255 > len(done.encode())
    assert done.endswith(f"-{index}.png")
    assert done == done.strip(" ")


@given(value=st.text())
def test_a_name_that_is_only_a_value_is_never_empty_or_a_directory(value):
    assert filenames.rendered("{value}", {"value": value}) not in ("", ".", "..")


@pytest.mark.parametrize(
    ("name", "second"),
    [("fox.{ext}", "fox-2.jpg"), ("a.b/fox", "a.b/fox-2"), ("{number}/fox.{ext}", "2/fox.jpg")],
)
def test_an_output_has_its_number_before_the_ending_or_in_its_own_place(name, second):
    assert second == filenames.completed(name, extension="jpg", generation="gen_1", number=2)


@given(value=st.text(), parts=st.integers(1, 4), fields=st.sampled_from(["", "-{id}", "-{id}-{number}"]))
def test_outputs_of_a_name_of_any_length_have_different_names(value, parts, fields):
    template = "".join(f"{{v{part}}}" for part in range(parts)) + fields + ".{ext}"
    name = filenames.rendered(template, {f"v{part}": value for part in range(parts)})
    done = [
        filenames.completed(name, extension="safetensors", generation="gen_" + "0" * 26, number=number)
        for number in (1, 2, 3, 12)
    ]

    assert 4 == len(set(done))
    assert all(255 > len(each.encode()) and "{" not in each for each in done)


def test_names_that_are_one_file_on_some_system_count_as_the_same():
    assert filenames.same("Füchse.PNG") == filenames.same("fu\u0308chse.png")
