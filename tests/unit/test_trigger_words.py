"""Trigger words of LoRAs: when a prompt has one, and the operator's file of them."""

from dataclasses import replace

import pytest

from catalog.trigger_words import has_word, put_in_front, read_trigger_words, word_of
from settings import SettingsError
from tests.support.declarations import REGISTRY, find

VERSION = "4cae8a4a" * 8


@pytest.mark.parametrize(
    ("prompt", "word"),
    [
        ("a TOK fox", "TOK"), ("a tok fox", "TOK"), ("TOK", "tok"), ("a fox, (tok)", "TOK"), ("tok's fox", "TOK"),
        ("a fox in the style  of\nwtrclr", "in the style of WTRCLR"), ("a <s0><s1> fox", "<s0><s1>"), ("ÉTÉ", "été"),
        ("a c++ fox", "c++"),
    ],
)  # fmt: skip
def test_a_word_counts_in_any_case_and_between_any_spaces(prompt, word):
    assert has_word(prompt, word)
    assert (prompt, ()) == put_in_front(word, prompt)


@pytest.mark.parametrize(
    ("prompt", "word"),
    [
        ("a tokyo fox", "TOK"),
        ("stok", "TOK"),
        ("tok_2", "TOK"),
        ("a fox", "TOK"),
        ("", "TOK"),
        ("a cxx", "c++"),
    ],
)
def test_a_part_of_another_word_is_not_the_word(prompt, word):
    assert not has_word(prompt, word)


def test_a_word_is_put_in_front_and_that_is_a_change():
    sent, changes = put_in_front("TOK", "a fox")

    assert "TOK a fox" == sent
    assert [
        {"field": "trigger_word", "change": "mapped", "given": "TOK", "sent_as": "prompt", "sent": sent}
    ] == [each.as_json() for each in changes]
    assert (sent, ()) == put_in_front("TOK", sent)
    assert ("TOK", "TOK") == (put_in_front("TOK", "")[0], put_in_front("TOK", " ")[0])
    assert ("a fox", ()) == put_in_front(None, "a fox")


# ── The operator's file


@pytest.fixture
def read(tmp_path):
    def read_text(text, name="words.toml"):
        path = tmp_path / name
        path.write_text(text)
        return read_trigger_words(path, REGISTRY)

    return read_text


def test_the_file_has_words_by_name_version_and_alias(read):
    text = f'"acme/watercolor" = "WTRCLR"\n"acme/watercolor:{VERSION}" = "TOK"\nflux-dev = "a GLSTN fox"'

    assert {
        "acme/watercolor": "WTRCLR",
        f"acme/watercolor:{VERSION}": "TOK",
        "black-forest-labs/flux-dev": "a GLSTN fox",
    } == read(text)
    assert {"acme/a": "TOK"} == read('{"acme/a": "TOK"}', "words.json")


def test_the_word_of_a_version_comes_before_that_of_its_model():
    words = {"acme/watercolor": "WTRCLR", f"acme/watercolor:{VERSION}": "TOK"}
    model = replace(find("flux-dev"), name="acme/watercolor", version="0" * 64)

    assert "WTRCLR" == word_of(model, words)
    assert "TOK" == word_of(replace(model, version=VERSION), words)
    assert word_of(find("flux-dev"), words) is None


def test_all_mistakes_of_the_file_are_reported(read):
    text = f"""
        nothing = "TOK"
        "acme/short:4cae8a4a" = "TOK"
        "acme/a" = 3
        "acme/b" = ""
        "acme/c" = " TOK"
        "acme/d" = "{"x" * 101}"
        flux-dev = "one"
        "black-forest-labs/flux-dev" = "two"
    """
    with pytest.raises(SettingsError) as wrong:
        read(text)

    sentences = str(wrong.value).splitlines()
    assert all(each.startswith("TRIGGER_WORDS_FILE: ") for each in sentences)
    assert ["nothing", "acme/short:4cae8a4a", "acme/a", "acme/b", "acme/c", "acme/d", "black-forest-labs/flux-dev"] == [
        each.split()[1] for each in sentences
    ]  # fmt: skip


def test_a_name_with_a_dot_that_has_no_quotes_is_refused(read):
    with pytest.raises(SettingsError, match=r"^TRIGGER_WORDS_FILE: "):
        read('flux-1.1-pro = "TOK"')
