"""What a text says that a provider runs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.targets import Target, is_model_name, is_version

ID = "5c7d5dc6dd8bf75c1acaa8565735e7986bc5b66206b55cca93cb72c9bf15ccaa"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a/b", ("a/b", None, None)),
        (f"a/b:{ID}", ("a/b", ID, None)),
        ("deployments/a/b", ("deployments/a/b", None, "a/b")),
        ("deployments/b", ("deployments/b", None, None)),
        ("deployments/../b", ("deployments/../b", None, None)),
        ("deployments/a/b/c", ("deployments/a/b/c", None, None)),
        ("a/b:c6b5d2b7", ("a/b:c6b5d2b7", None, None)),
        (f"a/b:{ID.upper()}", (f"a/b:{ID.upper()}", None, None)),
        (ID, (ID, None, None)),
        ("", ("", None, None)),
    ],
)
def test_a_target_has_a_name_and_perhaps_a_version_or_a_deployment(text, parts):
    target = Target.parse(text)

    assert parts == (target.name, target.version, target.deployment)


@given(st.text() | st.sampled_from(["a/b", f"a/b:{ID}", "deployments/a/b"]))
def test_a_target_is_written_as_it_was_read(text):
    assert text == str(Target.parse(text))


@pytest.mark.parametrize("name", ["a/b", "black-forest-labs/flux-1.1-pro", "A_1/b.c-d", "_a/b", "0/1"])
def test_names_of_models_have_an_owner(name):
    assert is_model_name(name)


@pytest.mark.parametrize(
    "name",
    ["", "a", "a/", "/b", "a/b/c", "../b", "a/..", "a/.", "a b/c", "a/b\n", "a/b?c", "ä/b", "a" * 101 + "/b"],
)
def test_other_texts_are_no_names_of_models(name):
    assert not is_model_name(name)


@pytest.mark.parametrize("version", [None, 7, "", ID[:-1], f"{ID}0", ID.upper(), f"{ID}\n", "hidden"])
def test_only_64_hexadecimal_digits_are_a_version(version):
    assert is_version(ID)
    assert not is_version(version)
