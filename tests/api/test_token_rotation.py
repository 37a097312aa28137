"""The service's Replicate token is replaced in its file while work runs, and the old one is revoked."""

import os
from io import BytesIO

import pytest
import requests

from harness.service_process import until
from simulator.accounts import fingerprint
from tests.support.api_client import ended, picture, state, submit
from tests.support.callers import ADMIN, PNG

FIRST, SECOND, OTHER = "r8_first-token", "r8_second-token", "r8_token-of-another"

pytestmark = pytest.mark.every_database


class Rotation:
    """A service with its token in a file."""

    def __init__(self, make_app, simulator, tmp_path):
        self.simulator = simulator
        self.file = tmp_path / "token"
        self.file.write_text(FIRST)
        simulator.account(SECOND, same_as=FIRST)
        app = make_app(REPLICATE_API_TOKEN="", REPLICATE_API_TOKEN_FILE=self.file, LOG_LEVEL="debug")
        self.client, self.service = app.test_client(), app.extensions["service"]
        until(lambda: self.service.core.provider.tokens.account)

    def running(self, prompt):
        """The id of a generation, once its prediction runs."""
        target = submit(self.client, prompt, by=ADMIN)
        until(lambda: "running" == state(self.client, target, by=ADMIN))
        return target

    def replace(self, token, *, revoke):
        """Replace the file. The service finds that out by a refusal alone, since ten seconds have not passed."""
        self.file.write_text(token)
        if revoke:
            self.simulator.account(FIRST, reject=True)

    def look(self):
        self.service.loop.run(self.service.secrets.look())

    def status(self):
        return self.client.get("/status", headers=ADMIN)

    def by_token(self):
        """The number of predictions in the account of each token."""
        shown = requests.get(f"{self.simulator.url}/simulator/predictions", timeout=30).json()["predictions"]
        found = [each["token"] for each in shown]
        return {each: found.count(fingerprint(each)) for each in (FIRST, OTHER)}


@pytest.fixture
def rotation(make_app, simulator, tmp_path):
    return Rotation(make_app, simulator, tmp_path)


def test_work_goes_on_with_a_new_token_of_the_same_account(rotation, capfd):
    client = rotation.client
    running = rotation.running("[[slow=1.5]] a fox")
    rotation.replace(SECOND, revoke=True)
    later = [submit(client, f"[[slow=0]] later {number}", by=ADMIN) for number in range(3)]
    image = PNG + os.urandom(300_000)
    uploaded = client.post(
        "/generate",
        data={
            "model_name": "kontext-max",
            "prompt": "[[slow=0]] a copy",
            "input_image": (BytesIO(image), "a.png"),
        },
        headers=ADMIN,
    )

    assert ["succeeded"] * 4 == [ended(client, each, by=ADMIN)["status"] for each in [running, *later]]
    assert 200 == uploaded.status_code, uploaded.text
    assert {FIRST: 5, OTHER: 0} == rotation.by_token()
    status = rotation.status()
    assert None is status.json["account_changed_at"]
    shown = f"{capfd.readouterr()} {status.text}"
    assert "secret_changed" in shown
    assert not [each for each in (FIRST, SECOND) if each in shown]


def test_a_lost_creation_is_found_by_the_new_token(rotation):
    rotation.simulator.inject(on="create", reset="after")
    lost = submit(rotation.client, "[[slow=0]] a lost fox", by=ADMIN)
    until(lambda: 1 == rotation.simulator.counts().creations_accepted)
    rotation.replace(SECOND, revoke=True)

    assert "succeeded" == ended(rotation.client, lost, by=ADMIN)["status"]
    assert 1 == rotation.simulator.counts().creations_accepted


def test_work_can_be_cancelled_by_the_new_token(rotation):
    running = rotation.running("[[hang]] a fox")
    rotation.replace(SECOND, revoke=True)
    rotation.client.delete(f"/generations/{running}", headers=ADMIN)

    until(lambda: "canceled" == rotation.simulator.predictions()[0].status)


def test_after_a_change_of_account_old_work_keeps_its_token_and_new_work_takes_the_new_one(rotation):
    client = rotation.client
    running = rotation.running("[[slow=1]] a fox")
    rotation.replace(OTHER, revoke=False)
    rotation.look()
    later = submit(client, "[[slow=0]] later", by=ADMIN)

    assert ["succeeded"] * 2 == [ended(client, each, by=ADMIN)["status"] for each in (running, later)]
    assert {FIRST: 1, OTHER: 1} == rotation.by_token()
    status = rotation.status()
    assert None is not status.json["account_changed_at"]
    assert not [each for each in (FIRST, OTHER) if each in status.text]


def test_work_is_not_sent_by_a_token_of_another_account(rotation):
    client = rotation.client
    running = rotation.running("[[hang]] a fox")
    rotation.replace(OTHER, revoke=True)
    rotation.look()

    assert "server_token_rejected" == ended(client, running, by=ADMIN)["error"]["code"]
    assert {FIRST: 1, OTHER: 0} == rotation.by_token()


def test_a_token_that_replicate_refuses_has_no_effect(rotation):
    rotation.simulator.account(OTHER, reject=True)
    rotation.replace(OTHER, revoke=False)
    rotation.look()

    assert {"REPLICATE_API_TOKEN": "Replicate refuses it"} == rotation.service.secrets.troubles
    assert 200 == rotation.client.post("/generate", json=picture(), headers=ADMIN).status_code
    rotation.replace(SECOND, revoke=True)
    assert 200 == rotation.client.post("/generate", json=picture(), headers=ADMIN).status_code
