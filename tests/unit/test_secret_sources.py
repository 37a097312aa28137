"""Secrets from files: how they are read, at the start and later."""

import os

import pytest

from settings import Settings, SettingsError
from settings.sources import MOST_BYTES, SecretFile, SecretUnreadable

NAMES = Settings.secret_names()
WEBHOOK = "whsec_c2VjcmV0LW9mLXRoZS1ob29rcw=="


@pytest.fixture
def file(tmp_path):
    return tmp_path / "secret"


def read(**environ):
    return Settings.from_env({name: str(value) for name, value in environ.items()})


def test_each_secret_may_come_from_a_file():
    assert {
        "REPLICATE_API_TOKEN",
        "CONCURRENT_DOCKER_ADMIN_API_KEY",
        "ADMIN_API_KEY",
        "GEMINI_API_KEY",
        "WEBHOOK_SECRET",
        "DATABASE_URL",
        "HTTPS_PROXY",
    } <= {*NAMES}


@pytest.mark.parametrize("name", ["REPLICATE_API_TOKEN", "ADMIN_API_KEY", "GEMINI_API_KEY"])
def test_a_file_is_the_same_as_the_variable(name, file):
    file.write_text("the-secret")

    settings = read(**{f"{name}_FILE": file})

    assert "the-secret" == settings.secret(name) == settings.secret_sources[name].read()
    assert settings.model_dump() == Settings.from_env({name: "the-secret"}).model_dump()
    assert settings.simulating_without_token().secret_sources == settings.secret_sources


@pytest.mark.parametrize(
    ("content", "secret"),
    [
        ("a-secret\n", "a-secret"),
        ("a-secret\r\n", "a-secret"),
        ("a-secret\n\n", "a-secret\n"),
        ("a\r", "a\r"),
    ],
)
def test_one_newline_at_the_end_is_taken_off(content, secret, file):
    file.write_bytes(content.encode())

    assert secret == SecretFile(file).read()


def test_both_forms_are_refused(file):
    file.write_text("the-secret")

    with pytest.raises(SettingsError, match=r"^REPLICATE_API_TOKEN_FILE: REPLICATE_API_TOKEN is set, too"):
        read(REPLICATE_API_TOKEN="another", REPLICATE_API_TOKEN_FILE=file)


@pytest.mark.parametrize("other", [{"ADMIN_API_KEY": "the-secret"}, {"ADMIN_API_KEY_FILE": "same"}])
def test_the_other_name_of_a_secret_is_refused_beside_its_file(other, file):
    file.write_text("the-secret")
    other = {name: file if value == "same" else value for name, value in other.items()}

    with pytest.raises(SettingsError, match="with a file or a vault, set only one of them"):
        read(CONCURRENT_DOCKER_ADMIN_API_KEY_FILE=file, **other)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot be read: No such file"),
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"\xff\xfe", "is not text"),
        (b"x" * (MOST_BYTES + 1), "has more than 65536 bytes"),
    ],
)
def test_a_file_without_a_secret_ends_the_start(content, reason, file):
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(SettingsError, match=f"^GEMINI_API_KEY_FILE: {file} {reason}"):
        read(GEMINI_API_KEY_FILE=file)


def test_a_pipe_and_a_directory_do_not_block(file):
    os.mkfifo(file)

    for path in (file, file.parent):
        with pytest.raises(SecretUnreadable):
            SecretFile(path).read()


def test_a_wrong_secret_in_a_file_is_refused_without_being_repeated(file):
    file.write_text("two w0rds")

    with pytest.raises(SettingsError, match=r"^WEBHOOK_SECRET: must be whsec_") as refused:
        read(WEBHOOK_SECRET_FILE=file)

    assert "w0rds" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [("REPLICATE_API_TOKEN", "r8 x"), ("REPLICATE_API_TOKEN", "changeme"), ("REPLICATE_API_TOKEN", '"r8_x"'),
     ("WEBHOOK_SECRET", "whsec_!"), ("DATABASE_URL", "mysql://here")],
)  # fmt: skip
def test_a_later_secret_must_keep_the_rules_of_its_setting(name, text):
    with pytest.raises(ValueError, match=r"must|placeholder") as refused:
        read().check_secret(name, text)

    assert text not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [("WEBHOOK_SECRET", WEBHOOK), ("DATABASE_URL", "postgresql://me:a${b{{c@here/ledger"),
     ("HTTPS_PROXY", "http://me:a${b@here.test:1")],
)  # fmt: skip
def test_a_later_secret_may_be_any_good_value(name, text):
    read(**{name: text}, FILES_TTL=0).check_for_start()

    assert text == read().check_secret(name, text)


def test_a_worker_that_starts_later_has_the_secrets_of_that_time(file, tmp_path):
    other = tmp_path / "other"
    file.write_text("r8_first")
    other.write_text("AQ.first")
    settings = read(REPLICATE_API_TOKEN_FILE=file, GEMINI_API_KEY_FILE=other, PORT=5001)
    file.write_text("r8_second")
    other.write_text("not good")

    assert settings is settings.renewed()
    later = settings.renewed(after=0)
    assert ("r8_second", "AQ.first", 5001) == (later.replicate_token, later.gemini_key, later.PORT)
    assert later.secret_sources == settings.secret_sources
