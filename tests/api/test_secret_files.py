"""Secrets in files that change while the service runs."""

import pytest

from harness.service_process import until
from tests.api.test_webhook_secrets import signed_by
from tests.support.api_client import submit
from tests.support.outbox_wiring import SECRET
from tests.support.served_in_process import receiving

OTHER = "whsec_YW5vdGhlciBzZWNyZXQ="
FIRST, SECOND = "the-first-admin-key", "the-second-admin-key"

pytestmark = pytest.mark.every_database


def test_a_changed_admin_key_and_webhook_secret_are_used_beside_the_old_ones(make_app, tmp_path, capfd):
    key, signing = tmp_path / "key", tmp_path / "signing"
    key.write_text(f"{FIRST}\n")
    signing.write_text(SECRET)
    app = make_app(
        CONCURRENT_DOCKER_ADMIN_API_KEY="", CONCURRENT_DOCKER_ADMIN_API_KEY_FILE=key,
        WEBHOOK_SECRET_FILE=signing, WEBHOOK_HOSTS="127.0.0.1", LOG_LEVEL="debug",
    )  # fmt: skip
    client, service = app.test_client(), app.extensions["service"]
    old, new = ({"X-Admin-API-Key": each} for each in (FIRST, SECOND))

    def status(by):
        return client.get("/keys", headers=by).status_code

    assert (200, 401) == (status(old), status(new))
    key.write_text(SECOND)
    signing.unlink()
    signing.symlink_to(tmp_path / "later")
    service.loop.run(service.secrets.look())
    assert (200, 200) == (status(old), status(new))
    assert {"WEBHOOK_SECRET"} == {*service.secrets.troubles}

    (tmp_path / "later").write_text(f"{OTHER}\r\n")
    service.loop.run(service.secrets.look())
    with receiving() as receiver:
        submit(client, by=new, webhook=receiver.url)
        until(lambda: receiver.received)

    assert [0, 1] == signed_by(receiver.received[0], SECRET, OTHER)
    assert {} == service.secrets.troubles
    shown = f"{capfd.readouterr()} {client.get('/status', headers=new).text}"
    assert "secret_changed" in shown
    assert not [each for each in (FIRST, SECOND, SECRET, OTHER) if each in shown]
