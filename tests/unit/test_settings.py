"""Settings: reading, error messages, hidden secrets, and consistency with the documents."""

import base64
import random
import re
import ssl
import string
import tomllib
from itertools import pairwise
from pathlib import Path

import certifi
import pytest

from service import VERSION
from settings import Settings, SettingsError, load

ROOT = Path(__file__).parents[2]
SECRETS = ("REPLICATE_API_TOKEN", "CONCURRENT_DOCKER_ADMIN_API_KEY")


def _documented_default(name: str) -> str:
    default = Settings.model_fields[name].default
    if default is None or default is False:
        return ""
    return f"{default:g}" if isinstance(default, float) else str(default)


def test_an_empty_environment_gives_the_defaults():
    settings = Settings.from_env({})

    assert (10, 600) == (settings.REPLICATE_CONCURRENT_LIMIT, settings.REPLICATE_REQUESTS_PER_MINUTE)
    assert (None, None) == (settings.admin_key, settings.replicate_token)


@pytest.mark.parametrize("name", list(Settings.model_fields))
def test_an_empty_or_blank_variable_means_the_default(name):
    default = Settings.from_env({})

    assert default == Settings.from_env({name: ""})
    assert default == Settings.from_env({name: "  "})


def test_all_errors_are_reported_at_once_without_the_values():
    environ = {"PORT": "s3cret", "REPLICATE_CONCURRENT_LIMIT": "1001", "REPLICATE_API_TOKEN": "r8 s3cret"}

    with pytest.raises(SettingsError) as refused:
        Settings.from_env(environ)

    said = str(refused.value).splitlines()
    assert set(environ) == {line.split(":")[0] for line in said}
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REPLICATE_CONCURRENT_LIMIT", "0"),
        ("PROCESS_TTL", "0.9"),
        ("PROCESS_TTL", "61"),
        ("REPLICATE_REQUESTS_PER_MINUTE", "60001"),
        ("REPLICATE_BASE_URL", "ftp://example.com"),
        ("REPLICATE_BASE_URL", "http://[::1"),
        ("PUBLIC_URL", "example.com"),
        ("DATABASE_URL", "mysql://here/ledger"),
        ("DATABASE_URL", "postgresql://me:s@cret@here/ledger"),
        ("DATABASE_URL", "postgresql://me:se/cret@here/ledger"),
        ("DATABASE_URL", "postgresql://me:sec#ret@here/ledger"),
        ("DATABASE_URL", "postgresql://me:sec:ret@here/ledger"),
        ("DATABASE_URL", "postgresql://me:secret%@here/ledger"),
        ("DATABASE_URL", "sqlite://"),
        ("RESUME_TTL", "-1"),
        ("WEBHOOK_SECRET", "a secret"),
        ("WEBHOOK_SECRET", "whsec_"),
        ("WEBHOOK_SECRET", "whsec_not*base64"),
        ("BUDGET_USD_PER_DAY", "-0.01"),
        ("BUDGET_USD_PER_DAY", "nan"),
        ("FILES_URL", "s3:bucket"),
        ("FILES_TTL", "-1"),
        ("REPLICATE_SIMULATE", "perhaps"),
        ("PORT", "65536"),
        ("LOG_LEVEL", "loud"),
        ("INTERACTIVE_RESERVE", "nan"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(name, value):
    with pytest.raises(SettingsError, match=f"^{name}: "):
        Settings.from_env({name: value})


def test_secrets_are_hidden_in_every_rendering():
    settings = Settings.from_env(
        {
            **dict.fromkeys(SECRETS, "s3cret"),
            "WEBHOOK_SECRET": "whsec_s3cret==",
            "DATABASE_URL": "postgresql://me:s3cret@here/ledger",
        }
    )

    assert "s3cret" not in f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"
    assert "whsec_s3cret==" == settings.webhook_secret


def test_the_ledger_is_in_the_data_directory_by_default():
    assert "sqlite:///data/ledger.db" == Settings.from_env({}).database_url
    assert "sqlite:////srv/x/ledger.db" == Settings.from_env({"DATA_DIR": "/srv/x"}).database_url
    assert (
        "sqlite:////a.db"
        == Settings.from_env({"DATA_DIR": "/srv", "DATABASE_URL": "sqlite:////a.db"}).database_url
    )


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://",
        "postgres://here",
        "postgresql://me:%40secret@a:5432,[::1]:5433/ledger?target_session_attrs=read-write&sslmode=verify-full",
        "postgresql:///ledger?host=/run/postgresql&options=-csearch_path%3Dservice",
    ],
)
def test_a_url_of_postgresql_may_have_all_that_libpq_reads(url):
    assert url == Settings.from_env({"DATABASE_URL": url}).database_url


POSTGRES = {"DATABASE_URL": "postgresql://me:s3cret@here/ledger"}
LINKED, SHARED = {"PUBLIC_URL": "https://here.example"}, {"FILES_SHARED": "1"}
_BOTH = "FILES_URL (or FILES_SHARED=1, if FILES_DIR is one directory for all instances) and PUBLIC_URL"


@pytest.mark.parametrize(
    ("environ", "missing"),
    [
        ({}, _BOTH),
        ({"FILES_DIR": "/srv/files"}, _BOTH),
        (LINKED, _BOTH.removesuffix(" and PUBLIC_URL")),
        (SHARED, "PUBLIC_URL"),
        ({"FILES_URL": "s3://bucket"}, "PUBLIC_URL"),
        ({"REPLICATE_SIMULATE": "1"} | LINKED, _BOTH.removesuffix(" and PUBLIC_URL")),
    ],
)
def test_with_postgresql_a_start_without_shared_outputs_is_refused_in_a_sentence(environ, missing):
    with pytest.raises(SettingsError) as refused:
        Settings.from_env(POSTGRES | environ).check_for_start()

    assert f"DATABASE_URL: with PostgreSQL, set {missing} too, or FILES_TTL=0." == str(refused.value)


@pytest.mark.parametrize(
    "environ",
    [
        POSTGRES | LINKED | SHARED,
        POSTGRES | LINKED | {"FILES_URL": "s3://bucket"},
        POSTGRES | {"FILES_TTL": "0"},
        {"DATABASE_URL": "sqlite:///ledger.db"},
        {},
    ],
)
def test_a_start_needs_shared_outputs_only_with_postgresql_and_only_if_it_keeps_any(environ):
    Settings.from_env(environ).check_for_start()


def test_a_start_names_a_placeholder_and_unshared_outputs_together():
    with pytest.raises(SettingsError) as refused:
        Settings.from_env(POSTGRES | {"REPLICATE_API_TOKEN": "r8_example"}).check_for_start()

    assert ["REPLICATE_API_TOKEN", "DATABASE_URL"] == [
        line.partition(":")[0] for line in str(refused.value).splitlines()
    ]


@pytest.mark.parametrize(
    ("url", "real", "simulated"),
    [
        (None, False, False),
        ("https://here.example/service", True, True),
        ("http://here.example", False, False),
        ("http://127.0.0.1:5000", False, True),
        ("http://localhost:5000", False, True),
    ],
)
def test_webhooks_of_replicate_need_https_and_those_of_a_simulator_may_use_localhost(url, real, simulated):
    address = {"PUBLIC_URL": url} if url else {}

    assert real is Settings.from_env(address).webhooks_come
    assert simulated is Settings.from_env({**address, "REPLICATE_SIMULATE": "1"}).webhooks_come


def test_aws_variables_are_read_from_an_env_file_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("AWS_REGION=here\nAWS_ACCESS_KEY_ID=id\nAWS_OTHER=x\n")
    monkeypatch.setenv("AWS_REGION", "there")

    settings = load()

    assert {"AWS_REGION": "there", "AWS_ACCESS_KEY_ID": "id"} == dict(settings.aws)
    assert "'id'" not in f"{settings!r} {settings.model_dump()}"


@pytest.mark.parametrize(
    "rest",
    ["?", "?a=b", "/gen?a=b", "#", "/gen#top", "/a b", "/a\tb", "\\a"],
)
@pytest.mark.parametrize("name", ["PUBLIC_URL", "REPLICATE_BASE_URL"])
def test_an_address_that_paths_cannot_follow_is_refused(name, rest):
    with pytest.raises(
        SettingsError, match=f"^{name}: must have no user name, query, fragment, blank"
    ) as refused:
        Settings.from_env({name: f"https://example.org{rest}"})
    assert "example" not in str(refused.value)


@pytest.mark.parametrize("login", ["user", "user:secret", ""])
def test_an_address_with_a_user_name_is_refused(login):
    with pytest.raises(SettingsError, match=r"^PUBLIC_URL: must have no user name"):
        Settings.from_env({"PUBLIC_URL": f"https://{login}@example.org"})
    assert (
        "https://example.org/@me"
        == Settings.from_env({"PUBLIC_URL": " https://example.org/@me/ "}).PUBLIC_URL
    )


def test_settings_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        Settings.from_env({}).PORT = 1  # type: ignore[misc]


def test_a_simulated_service_never_calls_replicate():
    simulated = Settings.from_env({"REPLICATE_SIMULATE": "1"})
    named = Settings.from_env({"REPLICATE_SIMULATE": "1", "REPLICATE_BASE_URL": "https://api.replicate.com/"})
    elsewhere = Settings.from_env({"REPLICATE_SIMULATE": "1", "REPLICATE_BASE_URL": "http://127.0.0.1:9"})

    assert [True, True, False] == [each.needs_simulator for each in (simulated, named, elsewhere)]


def test_a_value_in_quotes_is_refused():
    with pytest.raises(SettingsError, match=r"^REPLICATE_API_TOKEN: must not be in quotes"):
        Settings.from_env({"REPLICATE_API_TOKEN": '"r8_x"'})


@pytest.mark.parametrize(
    ("host", "address"), [("127.0.0.1", "127.0.0.1:5000"), ("::1", "[::1]:5000"), ("[::]", "[::]:5000")]
)
def test_an_ipv6_host_is_put_in_brackets(host, address):
    assert address == Settings.from_env({"HOST": host}).address


def test_the_version_is_the_projects():
    assert VERSION == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def test_only_a_simulated_service_has_a_token_by_default():
    assert Settings.from_env({}).replicate_token is None
    assert Settings.from_env({"REPLICATE_SIMULATE": "1"}).replicate_token == "r8_simulated"


def test_the_example_file_has_every_setting_with_its_description_and_default():
    lines = (ROOT / ".env.example").read_text().splitlines()
    said = {}
    for sentence, line in pairwise(lines):
        if match := re.fullmatch(r"(?:# )?([A-Z_]+)=(.*)", line):
            said[match[1]] = (sentence.removeprefix("# "), match[2])

    declared = {
        name: (field.description, _documented_default(name)) for name, field in Settings.model_fields.items()
    }
    assert declared == said, "run `make generated`"


def test_the_example_file_as_it_is_gives_the_defaults():
    given = {}
    for line in (ROOT / ".env.example").read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            given[name] = value  # as Docker reads it: literally

    assert Settings.from_env({}).model_dump() == Settings.from_env(given).model_dump()


def test_the_document_of_settings_has_every_setting_with_its_default():
    rows = re.findall(
        r"^\| `([A-Z_]+)` \| (?:`(.*?)`)? ?\| (.+) \|$",
        (ROOT / "docs" / "settings.md").read_text(),
        re.MULTILINE,
    )

    declared = [
        (name, _documented_default(name), field.description) for name, field in Settings.model_fields.items()
    ]
    assert declared == rows, "run `make generated`"


PLACEHOLDERS = (
    "your-admin-api-key", "your_token", "YOUR_KEY_HERE", "<your-token>", "${YOUR_TOKEN}", "changeme", "change-me",
    "ChangeMe123", "change_this_key", "please-change-me", "REPLACE_ME", "replace-with-your-token", "insert-key-here",
    "put_your_key_here", "xxx", "****", "...", "placeholder", "<placeholder>", "todo", "TBD", "none", "null",
    "{{token}}", "enter-token-here", "api-key-goes-here", "fixme", "secret_here",
    "my-example-api-key", "example-admin-api-key", "EXAMPLE", "dummy-secret", "sample.token-123", "changeme-please",
    "xxxx-xxxx",
)  # fmt: skip


@pytest.mark.parametrize("value", PLACEHOLDERS)
@pytest.mark.parametrize("name", SECRETS)
def test_a_placeholder_is_refused_by_the_name_of_its_setting(name, value):
    with pytest.raises(SettingsError, match=f"^{name}: is a placeholder"):
        Settings.from_env({name: value}).check_for_start()


@pytest.mark.parametrize(
    "value",
    [
        "r8_your_token",
        "r8_xxxxxxxxxxxxxxxxxxxx",
        "r8_...",
        "r8_",
        "r8_<token>",
        "r8_example",
        "r8_sample_token_1",
    ],
)
def test_a_placeholder_may_look_like_a_token_of_replicate(value):
    with pytest.raises(SettingsError):
        Settings.from_env({"REPLICATE_API_TOKEN": value}).check_for_start()


@pytest.mark.parametrize("value", ["whsec_changeme", "whsec_exampletoken"])
def test_a_placeholder_may_look_like_a_secret_of_webhooks(value):
    with pytest.raises(SettingsError, match=r"^WEBHOOK_SECRET: is a placeholder"):
        Settings.from_env({"WEBHOOK_SECRET": value}).check_for_start()


def test_real_secrets_are_not_taken_for_placeholders():
    generator = random.Random(1)
    for _ in range(2000):
        token = "r8_" + "".join(generator.choices(string.ascii_letters + string.digits, k=37))
        key = "".join(
            generator.choices(string.ascii_letters + string.digits + "-_", k=generator.randint(8, 64))
        )
        secret = "whsec_" + base64.b64encode(generator.randbytes(24)).decode()
        environ = {
            "REPLICATE_API_TOKEN": token,
            "CONCURRENT_DOCKER_ADMIN_API_KEY": key,
            "WEBHOOK_SECRET": secret,
        }
        Settings.from_env(environ).check_for_start()
    for key in (
        "ops",
        "team-gateway-7Qx",
        "the-admin-key",
        "test-key",
        "my-admin-api-key",
        "gateway-key",
        "my-gateway-2f9c81d0",
    ):
        Settings.from_env({"CONCURRENT_DOCKER_ADMIN_API_KEY": key}).check_for_start()


def test_the_simulator_accepts_placeholders_and_short_keys():
    secrets = {"CONCURRENT_DOCKER_ADMIN_API_KEY": "changeme", "WEBHOOK_SECRET": "whsec_changeme"}
    settings = Settings.from_env({"REPLICATE_SIMULATE": "1", "REPLICATE_API_TOKEN": "r8_example"} | secrets)

    settings.check_for_start()

    assert not settings.admin_key_is_weak


def test_an_admin_key_below_sixteen_characters_is_weak():
    weak = [
        Settings.from_env({"CONCURRENT_DOCKER_ADMIN_API_KEY": "k7" * 7 + tail}).admin_key_is_weak
        for tail in ("x", "xy")
    ]

    assert [True, False] == weak
    assert not Settings.from_env({}).admin_key_is_weak


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("REPLICATE_REQUEST_PER_MINUTE", "REPLICATE_REQUESTS_PER_MINUTE"),
        ("REPLICATE_CONCURENT_LIMIT", "REPLICATE_CONCURRENT_LIMIT"),
        ("REPLICATE_TOKEN", "REPLICATE_API_TOKEN"),
        ("CONCURRENT_DOCKER_ADMIN_KEY", "CONCURRENT_DOCKER_ADMIN_API_KEY"),
        ("MAX_QUEUE", "MAX_QUEUED"),
        ("FILE_TTL", "FILES_TTL"),
        ("BUDGET_USD_DAY", "BUDGET_USD_PER_DAY"),
        ("log_level", "LOG_LEVEL"),
        ("Max_Queue", "MAX_QUEUED"),
        ("replicate_api_token", "REPLICATE_API_TOKEN"),
    ],
)
def test_a_misspelt_variable_is_reported_with_the_nearest_setting(name, nearest, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(name, "5")

    assert {name: nearest} == load().unknown


def test_an_unknown_variable_with_the_services_prefix_is_reported(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REPLICATE_ZZ", "5")

    assert ["REPLICATE_ZZ"] == list(load().unknown)


def test_an_unknown_variable_of_a_dotenv_is_reported_unless_another_program_uses_it(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text(
        "FROBNICATE=1\nAWS_REGION=eu\nCOMPOSE_PROJECT_NAME=x\nTZ=UTC\nGITHUB_TOKEN=x\nFLASK_ENV=x\nPORT=5001\n"
    )

    settings = load()

    assert ({"FROBNICATE": None}, 5001) == (settings.unknown, settings.PORT)


@pytest.mark.parametrize("name", ["REPLICATE_requests_per_minute", "replicate_requests_per_minute"])
def test_a_variable_of_a_dotenv_in_lower_case_is_reported_with_its_setting(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text(f"{name}=5\n")

    assert {name: "REPLICATE_REQUESTS_PER_MINUTE"} == load().unknown


def test_unrelated_variables_of_the_environment_are_not_reported(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("HOSTNAME", "LOGNAME", "DATABASE", "PYTHONPATH", "MAX_MEMORY", "LOG_FILE", "PUBLIC_KEY"):
        monkeypatch.setenv(name, "x")

    assert {} == load().unknown


@pytest.mark.parametrize(
    ("name", "what", "reason"),
    [
        ("SSL_CERT_FILE", "gone", "No such file"),
        ("SSL_CERT_FILE", "folder", "cannot be used"),
        ("SSL_CERT_FILE", "text.pem", "no certificates"),
        ("SSL_CERT_DIR", "gone", "not a directory"),
        ("SSL_CERT_DIR", "text.pem", "not a directory"),
    ],
)
def test_certificates_that_cannot_be_read_are_refused_at_the_start(monkeypatch, tmp_path, name, what, reason):
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.pem").write_text("no certificate")
    monkeypatch.setenv(name, str(tmp_path / what))

    with pytest.raises(SettingsError, match=f"^{name}: .*{what}.*{reason}.*[.]$"):
        load()


def test_one_of_several_directories_of_certificates_is_enough(monkeypatch, tmp_path):
    monkeypatch.setenv("SSL_CERT_DIR", f"{tmp_path}/gone:{tmp_path}")

    load()


def test_certificates_named_in_the_env_file_are_those_that_tls_uses(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", "")  # and taken back after the test
    monkeypatch.delenv("SSL_CERT_FILE")
    Path(".env").write_text(f"SSL_CERT_FILE={certifi.where()}\n")

    load()

    assert certifi.where() == ssl.get_default_verify_paths().cafile


@pytest.mark.parametrize("environ", [{}, {"GEMINI_SIMULATE": "1"}, {"REPLICATE_SIMULATE": "1"}])
def test_a_service_without_any_key_simulates_both_providers(environ):
    settings = Settings.from_env(environ).simulating_without_token()

    assert settings.REPLICATE_SIMULATE
    assert settings.gemini_url == settings.REPLICATE_BASE_URL
    assert settings.gemini_key is not None


@pytest.mark.parametrize("name", ["REPLICATE_API_TOKEN", "GEMINI_API_KEY"])
def test_a_service_with_the_key_of_one_provider_simulates_none(name):
    settings = Settings.from_env({name: "a-real-one"}).simulating_without_token()

    assert not settings.REPLICATE_SIMULATE
    assert "https://generativelanguage.googleapis.com" == settings.gemini_url


@pytest.mark.parametrize(
    "environ",
    [
        {"GEMINI_SIMULATE": "1", "REPLICATE_API_TOKEN": "r8_real"},
        {"REPLICATE_SIMULATE": "1", "GEMINI_API_KEY": "AQ.real"},
        {"ADMIN_API_KEY": "one", "CONCURRENT_DOCKER_ADMIN_API_KEY": "another"},
        {"GEMINI_LIMITS": "[1]"},
    ],
)
def test_settings_that_contradict_each_other_are_refused(environ):
    with pytest.raises(SettingsError):
        Settings.from_env(environ)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, None),
        ({"REPLICATE_API_TOKEN": "r8_a"}, "r8_a"),
        ({"GEMINI_API_KEY": "AQ.b"}, "AQ.b"),
        ({"REPLICATE_API_TOKEN": "r8_a", "GEMINI_API_KEY": "AQ.b"}, "r8_a\nAQ.b"),
    ],
)
def test_a_service_with_the_key_of_either_provider_has_credentials(given, expected):
    assert expected == Settings.from_env(given).server_credentials
