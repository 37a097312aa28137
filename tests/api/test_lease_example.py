"""The example of `docs/api.md` for other services runs as it stands, on a real socket."""

import re
from pathlib import Path

import requests

from tests.support.callers import ADMIN, ADMIN_KEY
from tests.support.served_in_process import online

DOCUMENT = Path(__file__).parents[2] / "docs" / "api.md"


def test_the_example_holds_a_permit_while_it_works_renews_it_and_returns_it(app, monkeypatch):
    [example] = [
        each
        for each in re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
        if "renew" in each
    ]
    monkeypatch.setenv("KEY", ADMIN_KEY)
    client = app.test_client()
    client.post("/_admin/semaphores", json={"semaphore_id": "gpu", "limit": 1}, headers=ADMIN)
    answers = []

    seen: list[str] = []
    with online(app) as url:
        real = requests.post

        def post(address, **how):
            seen.append(address)
            return real(address, **how)

        monkeypatch.setattr(requests, "post", post)
        quick = example.replace("http://localhost:5000", url).replace("60 / 3", "0.01")
        assert quick.count("0.01") == 1
        quick = quick.replace('print("working", not lost.is_set())', "work(lost)")

        def work(lost):
            while not any(each.endswith("/renew") for each in seen):
                lost.wait(0.01)
            answers.append(client.get("/_admin/semaphores", headers=ADMIN).json["semaphores"][0]["in_use"])
            answers.append(lost.is_set())

        exec(quick, {"work": work})

    assert [1, False] == answers
    assert 0 == client.get("/_admin/semaphores", headers=ADMIN).json["semaphores"][0]["in_use"]
