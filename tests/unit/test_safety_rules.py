"""Rules for prompts: words in any spelling, texts that no rule matches, and mistakes in their file."""

# ruff: noqa: RUF001 - the test is about lookalikes

import json
from pathlib import Path

import pytest

from safety.normal_form import forms
from safety.rules import NO_MATCH, Found, Rules
from settings import SettingsError

ROOT = Path(__file__).parents[2]
PROMPTS = ROOT / "tests" / "data" / "safety"

ORDINARY = (PROMPTS / "ordinary.txt").read_text(encoding="utf-8").splitlines()
EVASIONS = [json.loads(line) for line in (PROMPTS / "evasions.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def example():
    return Rules.read(ROOT / "safety.example.toml")


@pytest.fixture
def rules(tmp_path):
    """Makes rules from the text of a file."""

    def make(text):
        path = tmp_path / "rules.toml"
        path.write_text(text, encoding="utf-8")
        return Rules.read(path)

    return make


@pytest.fixture
def blocked(rules):
    """Whether the word blocks the text."""
    return lambda word, text: bool(
        rules(f'[[rules]]\ncategory = "x"\nwords = [{json.dumps(word)}]').find(text).blocked
    )


def test_the_example_refuses_no_ordinary_prompt(example):
    assert 200 == len(ORDINARY)
    assert [] == [each for each in ORDINARY if example.find(each) != NO_MATCH]


def test_the_example_refuses_every_evasion_of_its_words(example):
    assert 100 == len(EVASIONS)
    assert [] == [each for each in EVASIONS if not example.find(each["prompt"]).blocked]


def test_each_word_of_an_evasion_is_one_of_the_example(example):
    assert [] == [each["word"] for each in EVASIONS if not example.find(each["word"]).blocked]


@pytest.mark.parametrize(
    "text",
    ["SWORD", "ｓｗｏｒｄ", "s\u200bword", "ѕwоrԁ", "ЅԜΟRD", "sw\ud800ord", "sw\x00ord", "ṣẅőṙḏ", "s̶w̶o̶r̶d̶", "🅂🅆🄾🅁🄳",
     "🆂🆆🅾🆁🅳", "🇸🇼🇴🇷🇩", "魔法のsword画像",
     "swסrd", "swهrd", "sw\u0c02rd", "sw٥rd", "⒮⒲⒪⒭⒟", "🄢🄦🄞🄡🄓",
     "ꜱᴡᴏʀᴅ", "ⓢⓦⓞⓡⓓ", "𝔰𝔴𝔬𝔯𝔡", "sw0rd", "a_sword_", "(sword)", "sword!"],
)  # fmt: skip
def test_a_word_is_found_in_this_spelling(blocked, text):
    assert blocked("sword", text)


@pytest.mark.parametrize(
    "text",
    ["pull her down", "PULL\n HER\u00a0\u2003down", "pu11 her d0wn", "puＩl heг dоwn", " pull\u200bher down"],
)
def test_an_expression_is_found_in_this_spelling(rules, text):
    assert rules("[[rules]]\ncategory = 'x'\nexpressions = ['^pull her down$']").find(text).blocked


def test_an_expression_is_found_though_letters_may_be_several(rules):
    found = rules("[[rules]]\ncategory = 'x'\nexpressions = ['lewd girls?']")
    assert found.find("ӏewd gіrӏѕ").blocked
    assert not found.find("ӏewd gіӏѕ").blocked


@pytest.mark.parametrize("text", ["swords", "password", "sword2", "s word", "swore", "fail"])
def test_no_other_word_is_found(blocked, text):
    assert not blocked("sword", text)


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("fall", "fail"),
        ("porn", "pom pom"),
        ("ball", "bail"),
        ("lie", "Iie"),
        ("bum", "burn"),
        ("rn", "m"),
        ("ball", "ｂａｉｌ"),
        ("ai", "Al"),
    ],
)
def test_a_plain_letter_is_not_taken_for_another(blocked, word, text):
    assert not blocked(word, text)


@pytest.mark.parametrize(
    ("word", "text"),
    [("slut", "sIut"), ("slut", "s1ut"), ("dildo", "D1LDO"), ("lolicon", "ӏоӏісоn"), ("hentai", "ΗΕΝΤΑΙ"),
     ("водка", "ВОДКА"), ("ВОДКА", "водка"), ("cat", "ϲat"), ("刀", "日本刀剣"), ("ดาบ", "คนถือดาบใหญ่"),
     ("child porn", "child  -\nporn"), ("snuff film", "snuff\u200bfilm"), ("snuff film", "snu\u200bff\u2800film"),
     ("snuff", "snuſſ"), ("cumshot", "ϲumshot"), ("cumshot", "cʋmshot"), ("fellatio", "feIIatio"),
     ("fellatio", "feＩＩatio"), ("fellatio", "fe١ﺍatio"), ("fellatio", "fe\uffe8latio"), ("hentai", "HENTAl"),
     ("lolicon", "𝐈olicon"), ("slut", "ѕIut")],
)  # fmt: skip
def test_lookalikes_capitals_and_other_scripts_are_found(blocked, word, text):
    assert blocked(word, text)


def test_rules_block_and_flag_by_category_in_their_order(rules):
    found = rules(
        """
        [[rules]]
        category = "violence"
        words = ["sword"]
        [[rules]]
        category = "weapons"
        action = "flag"
        words = ["sword", "knife"]
        [[rules]]
        category = "harm"
        expressions = ['(?:stab|cut)s? (?:him|her)']
        """
    )

    assert Found(("violence", "harm"), ("weapons",)) == found.find("A SWORD. He cuts her")
    assert Found((), ("weapons",)) == found.find("a knife")
    assert NO_MATCH == found.find("a spoon")


def test_an_expression_sees_the_normal_form(rules):
    found = rules("[[rules]]\ncategory = 'x'\nexpressions = ['^Fill the (?:vial|phial)$']")

    assert found.find("ＦＩＬＬ the vіаl").blocked
    assert not found.find("Refill the vial").blocked


def test_a_pattern_that_would_take_forever_elsewhere_takes_linear_time(rules):
    found = rules("[[rules]]\ncategory = 'x'\nexpressions = ['(a*)*b', '(x+x+)+y', '(?:a|aa)+$']")

    assert not found.find("a" * 200_000 + "!").blocked
    assert found.find("x" * 50_000 + "y").blocked


@pytest.mark.parametrize("blank", [" ", ""])
def test_a_word_is_found_anywhere_in_a_long_text(blocked, blank):
    for place in (0, 98_999, 99_995, 99_999, 100_001, 250_000):
        text = ("é" * 9 + (blank or "é")) * 30_000
        assert blocked("sword", f"{text[:place]} sword {text[place:]}")


def test_a_text_of_plain_letters_has_one_form_and_a_mixed_one_two():
    assert ("a cat",) == forms("A Cat")
    assert 2 == len(forms("Ηλίας"))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("rules = 3", "rules: input should be a valid list"),
        ("[[rules]]\nwords = ['x']", "rules[0].category: field required"),
        ("[[rules]]\ncategory = 'x'\naction = 'warn'", "rules[0].action: input should be 'block' or 'flag'"),
        ("[[rules]]\ncategory = 'x'\nword = ['x']", "rules[0].word: extra inputs are not permitted"),
        ("[[rules]]\ncategory = 'x'\nwords = ['!?']", "x: '!?' is no word"),
        ("[[rules]]\ncategory = 'x'\nexpressions = ['(?=a)']", "is no expression that RE2 takes"),
        ("[[rules]]\ncategory = 'x'\nexpressions = ['(((a{100}){100}){100})']", "is no expression that RE2 takes"),
        ("[[rules", "cannot be read as TOML"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_file_is_named(rules, text, sentence):
    with pytest.raises(SettingsError) as caught:
        rules(text)

    assert sentence in str(caught.value)
    assert str(caught.value).startswith("SAFETY_FILE: ")


def test_a_word_of_which_a_pattern_cannot_be_added_is_a_mistake(rules, monkeypatch):
    monkeypatch.setattr("safety.rules._ALIKE", {"l": "("})  # no such word is known

    with pytest.raises(SettingsError, match="x: 'lie' is no word"):
        rules("[[rules]]\ncategory = 'x'\nwords = ['lie', 'cat']")
