"""Named keys in real processes: one on SQLite, and three on PostgreSQL."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from harness.fleet import ADMIN
from simulator import Options, running
from tests.support.callers import PICTURE
from tests.support.fleets import fleet_on

pytestmark = pytest.mark.slow


@pytest.fixture(params=["sqlite", "postgresql"])
def fleet(request, tmp_path):
    options = Options(prediction_seconds=0.05, jitter=0.0)
    with (
        running(options) as simulator,
        fleet_on(request.param, tmp_path, REPLICATE_BASE_URL=simulator.url, DATA_DIR=tmp_path) as started,
    ):
        yield started


def call(member, method, path, *, by, body=None, key=None):
    headers = {**by, **({} if key is None else {"Idempotency-Key": key})}
    return requests.request(method, f"{member.running.url}{path}", json=body, headers=headers, timeout=60)


def make(member, **fields):
    made = call(member, "POST", "/keys", by=ADMIN, body={"name": "shop", **fields})
    assert 201 == made.status_code, made.text
    return made.json()["id"], {"X-API-Key": made.json()["key"]}


def statuses(fleet, by):
    return {call(each, "GET", "/generations", by=by).status_code for each in fleet.members}


def test_a_key_works_on_each_process_and_a_deleted_one_on_none(fleet):
    first, last = fleet.members[0], fleet.members[-1]
    key_id, by = make(first)

    for each in fleet.members:
        made = call(each, "POST", "/generate", by=by, body=PICTURE)
        assert 200 == made.status_code, made.text
    assert 204 == call(last, "DELETE", f"/keys/{key_id}", by=ADMIN).status_code

    assert {401} == statuses(fleet, by)
    listed = call(first, "GET", "/usage?group_by=caller", by=ADMIN).json()["usage"]
    assert [(key_id, len(fleet.members))] == [(each["caller"], each["generations"]) for each in listed]


def test_a_rotated_key_is_one_caller_everywhere_and_its_old_text_ends(fleet):
    first, last = fleet.members[0], fleet.members[-1]
    key_id, old = make(first)
    work = call(last, "POST", "/generate", by=old, body=PICTURE).json()["id"]

    rotated = call(last, "POST", f"/keys/{key_id}/rotate", by=ADMIN, body={"grace_seconds": 0}).json()

    assert {401} == statuses(fleet, old)
    new = {"X-API-Key": rotated["key"]}
    for each in fleet.members:
        assert work == call(each, "GET", f"/generations/{work}", by=new).json()["id"]


def test_a_key_is_made_and_rotated_once_though_every_process_gets_the_request_at_once(fleet):
    members = fleet.members * 4

    with ThreadPoolExecutor(len(members)) as threads:
        made = [
            *threads.map(
                lambda each: call(each, "POST", "/keys", by=ADMIN, body={"name": "a"}, key="k"), members
            )
        ]
        path = f"/keys/{made[0].json()['id']}/rotate"
        rotated = [*threads.map(lambda each: call(each, "POST", path, by=ADMIN, body={}, key="r"), members)]

    assert {201} == {each.status_code for each in made}
    assert {200} == {each.status_code for each in rotated}
    assert 1 == len({each.text for each in made})
    assert 1 == len({each.text for each in rotated})
    assert 1 == len(call(fleet.members[0], "GET", "/keys", by=ADMIN).json()["keys"])
    assert {200} == statuses(fleet, {"X-API-Key": rotated[0].json()["key"]})


def test_a_process_that_stood_still_refuses_a_key_that_was_deleted_meanwhile(fleet):
    if len(fleet.members) == 1:
        pytest.skip("no other process could delete the key")
    first, last = fleet.members[0], fleet.members[-1]
    key_id, by = make(first)
    assert {200} == statuses(fleet, by)
    last.freeze()

    call(first, "DELETE", f"/keys/{key_id}", by=ADMIN)
    last.thaw()

    assert 401 == call(last, "GET", "/generations", by=by).status_code
