"""Secrets in an Azure Key Vault over TLS, with the managed identity of the machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.certificates import Authority
from settings import Settings, SettingsError
from settings.sources import SecretUnreadable
from settings.vault import KEPT_FOR, LEAST_PAUSE, AzureVault
from tests.support.key_vault import key_vault, trusted

ROOT = Path(__file__).parents[2]
NAME = "replicate-api-token"


@pytest.fixture(scope="module")
def authority():
    return Authority()


@pytest.fixture
def vault(authority, tmp_path, monkeypatch):
    with key_vault(authority) as made:
        for name, value in {
            **made.environment, "SSL_CERT_FILE": trusted(authority, tmp_path / "authority.pem")
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        made.secrets[NAME] = "r8_first"
        yield made


@pytest.fixture
def opened(vault, clock):
    made = AzureVault(vault.url, clock=clock)
    yield made
    made.close()


@pytest.fixture
def source(opened):
    return opened.source("REPLICATE_API_TOKEN")


def test_secrets_without_a_variable_and_a_file_come_from_the_vault(vault, tmp_path):
    vault.secrets |= {"admin-api-key": "an-admin-key-of-the-vault", "gemini-api-key": "AQ.not-used"}
    (tmp_path / "hook").write_text("whsec_c2VjcmV0")
    settings = Settings.from_env(
        {
            "AZURE_KEY_VAULT_URL": vault.url,
            "GEMINI_API_KEY": "AQ.mine",
            "WEBHOOK_SECRET_FILE": str(tmp_path / "hook"),
        }
    )

    assert ("r8_first", "an-admin-key-of-the-vault") == (settings.replicate_token, settings.admin_key)
    assert ("AQ.mine", "whsec_c2VjcmV0", None) == (
        settings.gemini_key, settings.webhook_secret, settings.DATABASE_URL,
    )  # fmt: skip
    assert {"REPLICATE_API_TOKEN", "ADMIN_API_KEY", "WEBHOOK_SECRET"} == {*settings.secret_sources}
    assert not {"gemini-api-key", "webhook-secret"} & {*vault.requests}
    assert 1 == len(vault.resources)


def test_the_identity_of_a_machine_is_found_too(vault, monkeypatch, source):
    for name in vault.environment:
        monkeypatch.delenv(name)
    for name, value in vault.of_machine.items():
        monkeypatch.setenv(name, value)

    assert "r8_first" == source.read()
    assert vault.resources


def test_a_secret_is_kept_for_an_hour(source, vault, clock):
    assert "r8_first" == source.read()
    vault.secrets[NAME] = "r8_second"
    clock.now = KEPT_FOR - 1
    assert "r8_first" == source.read()
    clock.now = KEPT_FOR
    assert "r8_second" == source.read()
    assert [NAME] * 2 == vault.requests


def test_a_refused_secret_is_requested_at_once_and_then_at_most_each_half_minute(source, vault, clock):
    source.read()
    vault.secrets[NAME] = "r8_second"
    assert "r8_second" == source.read(fresh=True)
    vault.secrets[NAME] = "r8_third"
    clock.now = LEAST_PAUSE - 1
    assert "r8_second" == source.read(fresh=True)
    clock.now = LEAST_PAUSE
    assert "r8_third" == source.read(fresh=True)
    assert 3 == len(vault.requests)


def test_a_vault_that_fails_is_read_again_after_half_a_minute(source, vault, clock):
    source.read()
    vault.status = 403
    for clock.now in (KEPT_FOR, KEPT_FOR + 10):
        with pytest.raises(
            SecretUnreadable, match="the key vault answers 403 for the secret replicate-api-token"
        ):
            source.read()
    assert 2 == len(vault.requests)
    vault.status = None
    clock.now = KEPT_FOR + LEAST_PAUSE

    assert "r8_first" == source.read()


def test_a_vault_that_cannot_be_reached_is_not_waited_for_by_each_secret(authority, clock, monkeypatch):
    with key_vault(authority) as vault:
        pass
    monkeypatch.setenv("IDENTITY_ENDPOINT", "http://127.0.0.1:9/")
    opened = AzureVault(vault.url, clock=clock)
    for setting in ("REPLICATE_API_TOKEN", "GEMINI_API_KEY"):
        with pytest.raises(SecretUnreadable, match="cannot be reached"):
            opened.source(setting).read()
    opened.close()


def test_a_vault_of_another_authority_gets_no_token(opened, vault, monkeypatch, tmp_path):
    monkeypatch.setenv("SSL_CERT_FILE", trusted(Authority(), tmp_path / "other.pem"))

    with pytest.raises(SecretUnreadable, match="cannot be reached"):
        opened.source("REPLICATE_API_TOKEN").read()
    assert ([], []) == (vault.requests, vault.resources)


def test_a_start_without_an_identity_or_a_secret_reports_it_once_and_without_details(vault):
    vault.knows_identity = False
    with pytest.raises(SettingsError) as refused:
        Settings.from_env({"AZURE_KEY_VAULT_URL": vault.url})

    expected = "AZURE_KEY_VAULT_URL: Azure accepts no identity of this process for the key vault."
    assert expected == str(refused.value)


@pytest.mark.parametrize("url", ["http://vault.test", "vault.test"])
def test_the_url_must_be_https(url):
    with pytest.raises(
        SettingsError, match=r"^AZURE_KEY_VAULT_URL: must be an address that begins with https"
    ):
        Settings.from_env({"AZURE_KEY_VAULT_URL": url})


def test_without_its_client_the_start_names_the_command():
    code = """
import sys
sys.modules["azure"] = None
from settings import Settings, SettingsError
try:
    Settings.from_env({"AZURE_KEY_VAULT_URL": "https://vault.test"})
except SettingsError as error:
    print(error)
"""
    run = [sys.executable, "-c", code]
    found = subprocess.run(
        run, cwd=ROOT, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=True
    )

    assert "run pip install -r requirements-azure.txt" in found.stdout
