"""The service's token is in a key vault, and is replaced there while the service runs."""

import pytest

from harness.certificates import Authority
from harness.service_process import until
from simulator.accounts import fingerprint
from tests.support.api_client import picture
from tests.support.callers import ADMIN
from tests.support.key_vault import key_vault, trusted

NAME, FIRST, SECOND, THIRD = "replicate-api-token", "r8_first-token", "r8_second-token", "r8_third-token"


@pytest.fixture
def vault(tmp_path, monkeypatch):
    authority = Authority()
    with key_vault(authority) as made:
        for name, value in made.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("SSL_CERT_FILE", trusted(authority, tmp_path / "authority.pem"))
        made.secrets[NAME] = FIRST
        yield made


def test_the_vault_is_read_after_a_refusal_and_its_last_secret_stays_while_it_is_away(
    vault, make_app, simulator, capfd
):
    for token in (SECOND, THIRD):
        simulator.account(token, same_as=FIRST)
    app = make_app(REPLICATE_API_TOKEN="", AZURE_KEY_VAULT_URL=vault.url, LOG_LEVEL="debug")
    client, service = app.test_client(), app.extensions["service"]
    until(lambda: service.core.provider.tokens.account)
    before = len(vault.requests)

    def status():
        return client.post("/generate", json=picture(), headers=ADMIN).status_code

    vault.secrets[NAME] = SECOND
    assert 200 == status()
    assert [] == vault.requests[before:]

    simulator.account(FIRST, reject=True)
    assert 200 == status()
    assert [NAME] == vault.requests[before:]

    vault.status = 503
    vault.secrets[NAME] = THIRD
    assert 200 == status()
    service.loop.run(service.secrets.look())
    assert 200 == status()
    made = simulator.predictions()
    assert 4 == len(made)
    shown = f"{capfd.readouterr()} {client.get('/status', headers=ADMIN).text}"
    assert not [each for each in (FIRST, SECOND, THIRD, "the-token-of-the-identity") if each in shown]
    assert fingerprint(FIRST) not in shown
