"""A start with a token of another account: what was sent by the old one is not sent again, and the change is logged."""

import json

import pytest
import requests

from harness.fleet import running_fleet
from harness.ledger_file import LedgerFile
from harness.service_process import running_service, until
from tests.support.callers import ADMIN, ADMIN_KEY, PICTURE

pytestmark = pytest.mark.slow

FIRST, SECOND, OTHER = "r8_first-token", "r8_second-token", "r8_token-of-another"

KEPT = "SELECT 1 FROM meta WHERE name = 'server account'"


def changes(*logs):
    lines = [line for log in logs for line in log.read_text().splitlines() if line.startswith("{")]
    return sum(json.loads(line)["event"] == "server_account_changed" for line in lines)


def submitted(service):
    answer = requests.post(
        f"{service.url}/generate", json=PICTURE, headers={**ADMIN, "Prefer": "respond-async"}, timeout=30
    )
    return answer.json()["id"]


def outcome(service, target):
    """How a generation ends."""

    def document():
        return requests.get(f"{service.url}/generations/{target}", headers=ADMIN, timeout=30).json()

    until(lambda: document()["status"] in {"succeeded", "failed", "canceled"})
    found = document()
    return found["error"]["code"] if found["status"] == "failed" else found["status"]


def status(service):
    return requests.get(f"{service.url}/status", headers=ADMIN, timeout=30).json()


@pytest.fixture
def settings(simulator, tmp_path):
    return {
        "REPLICATE_BASE_URL": simulator.url,
        "CONCURRENT_DOCKER_ADMIN_API_KEY": ADMIN_KEY,
        "DATA_DIR": tmp_path,
        "LOG_LEVEL": "info",
        "_log": tmp_path / "log",
    }


def killed_before_the_answer(simulator, settings, tmp_path):
    """The id of a generation. Its process was killed between its creation and the answer."""
    with running_service(REPLICATE_API_TOKEN=FIRST, **settings) as first:
        simulator.inject(on="create", delay=30.0)
        target = submitted(first)
        until(lambda: simulator.counts().creations_accepted)
        until(lambda: LedgerFile(tmp_path).execute(KEPT))
        first.kill()
    return target


def test_a_creation_in_doubt_is_not_sent_again_by_another_account(simulator, settings, tmp_path):
    target = killed_before_the_answer(simulator, settings, tmp_path)
    with running_service(REPLICATE_API_TOKEN=OTHER, **settings) as second:
        assert "outcome_unknown" == outcome(second, target)
        until(lambda: status(second)["account_changed_at"])
        second.kill()
    with running_service(REPLICATE_API_TOKEN=OTHER, **settings) as third:
        assert "succeeded" == outcome(third, submitted(third))
        assert "outcome_unknown" == outcome(third, target)
        assert None is status(third)["account_changed_at"]

    assert 1 == changes(settings["_log"])
    assert [FIRST, OTHER] == [each.token for each in simulator.predictions()]
    assert not [each for each in (FIRST, OTHER) if each in settings["_log"].read_text()]


def test_a_creation_in_doubt_is_found_by_another_token_of_its_account(simulator, settings, tmp_path):
    simulator.account(SECOND, same_as=FIRST)
    target = killed_before_the_answer(simulator, settings, tmp_path)
    with running_service(REPLICATE_API_TOKEN=SECOND, **settings) as second:
        assert "succeeded" == outcome(second, target)

    assert 0 == changes(settings["_log"])
    assert 1 == simulator.counts().creations_accepted


def test_processes_that_change_one_after_the_other_send_nothing_twice_and_log_it_once(simulator, own_server):
    settings = {"REPLICATE_BASE_URL": simulator.url, "REPLICATE_API_TOKEN": FIRST, "PROCESS_TTL": 1}
    with running_fleet(3, own_server, **settings) as fleet:
        simulator.inject(on="create", delay=30.0, times=3)
        targets = [submitted(each.running) for each in fleet.members]
        until(lambda: 3 == simulator.counts().creations_accepted)
        until(lambda: own_server.execute(KEPT))
        for each in fleet.members:
            each.kill()
            each.settings["REPLICATE_API_TOKEN"] = OTHER
            each.launch()
            until(each.is_ready)
        outcomes = {outcome(fleet.members[0].running, each) for each in targets}
        logs = [each.log for each in fleet.members]
        until(lambda: changes(*logs))
        assert "succeeded" == outcome(fleet.members[2].running, submitted(fleet.members[2].running))

    assert outcomes <= {"succeeded", "outcome_unknown"}
    assert [FIRST] * 3 + [OTHER] == [each.token for each in simulator.predictions()]
    assert 1 == changes(*logs)
