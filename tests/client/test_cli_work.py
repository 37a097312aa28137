"""Commands of `rcg` that follow, fetch and cancel work, and that look at the service and change it."""

import json
import re
import threading
import time

import pytest

from tests.client.conftest import ADMIN

pytestmark = pytest.mark.slow


@pytest.fixture
def begun(rcg):
    """Begins a generation, and returns its id."""

    def begin(prompt):
        status, output, _ = rcg("generate", prompt, "-m", "flux-schnell", "--no-wait")
        assert 0 == status
        return output.strip()

    return begin


@pytest.fixture
def batch(rcg, tmp_path):
    """The id of a batch of two rows that has ended."""
    (tmp_path / "prompts.txt").write_text("A fox\nA hare\n")
    rcg("batch", "prompts.txt", "-m", "flux-schnell", "-o", "made")
    lines = [json.loads(line) for line in (tmp_path / "made" / "manifest.jsonl").read_text().splitlines()]
    (found,) = [line["id"] for line in lines if line["type"] == "batch"]
    return found


def test_watch_waits_for_each_end_and_fails_if_one_failed(rcg, begun, batch):
    good, bad = begun("[[slow=0.5]] A watched fox"), begun("[[fail]] A watched fox")

    status, output, _ = rcg("watch", good, batch)
    assert 0 == status
    assert [
        f"{good}\tsucceeded\tflux-schnell\t0.003",
        f"{batch}\tcompleted\t2 of 2 succeeded, 0 failed\t0.006 USD",
    ] == output.splitlines()

    status, output, _ = rcg("watch", bad, good, "--json")
    assert (1, ["failed", "succeeded"]) == (
        status, [json.loads(line)["status"] for line in output.splitlines()],
    )  # fmt: skip


def test_cancel_ends_work_and_leaves_what_has_ended(rcg, begun, batch):
    target = begun("[[hang]] A fox")

    status, output, _ = rcg("cancel", target, batch)

    assert (0, [target, "canceled"]) == (status, output.splitlines()[0].split("\t")[:2])
    assert f"{batch}\tcompleted\t2 of 2 succeeded, 0 failed" in output
    assert (1, "canceled") == (rcg("get", target)[0], json.loads(rcg("get", target, "--json")[1])["status"])


def test_get_saves_the_files_of_a_batch_under_their_names(rcg, batch, tmp_path):
    status, output, _ = rcg("get", batch, "-o", "got", "--name", "{index}-{slug}.{ext}")

    assert 0 == status
    assert [f"{batch}\tcompleted", "got/1-a-fox.webp", "got/2-a-hare.webp"] == [
        output.partition("\t2 of")[0], *output.splitlines()[1:],
    ]  # fmt: skip
    made = {path.read_bytes() for path in (tmp_path / "made").glob("*.webp")}
    assert made == {path.read_bytes() for path in (tmp_path / "got").iterdir()}
    assert 1 == rcg("get", batch, "-o", "got", "--name", "{index}-{slug}.{ext}")[0]
    assert 0 == rcg("get", batch, "-o", "got", "--name", "{index}-{slug}.{ext}", "--overwrite")[0]


def test_configure_changes_the_limits_that_status_shows(rcg):
    status, output, errors = rcg("configure", "--concurrent-limit", "3", "--requests-per-minute", "90")
    assert (0, True) == (status, "at once" in errors)
    assert re.search(r"^slots\t\d+ of 3$", output, re.MULTILINE)
    assert re.search(r"^window\t\d+ of 90 in 60 s$", output, re.MULTILINE)

    rcg("configure", "--concurrent-limit", "none", "--requests-per-minute", "none")
    limits = json.loads(rcg("status", "--json")[1])["concurrency"]
    assert (10, 600) == (limits["concurrent_limit"], limits["requests_per_minute_limit"])


def test_status_with_watch_shows_it_each_second_until_ctrl_c(rcg, monkeypatch):
    pauses, wait, this_thread = [], time.sleep, threading.current_thread()

    def sleep(seconds):
        if threading.current_thread() is not this_thread:  # such as those of the simulator
            wait(seconds)
            return
        pauses.append(seconds)
        if len(pauses) >= 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", sleep)

    status, output, _ = rcg("status", "--watch")

    assert (130, [1, 1]) == (status, pauses)
    assert ["ok", "ok"] == [json.loads(line)["ledger"] for line in output.splitlines()]


def test_doctor_checks_the_key_at_the_address(rcg, service, monkeypatch):
    status, output, _ = rcg("doctor")
    assert 0 == status
    assert {f"address\t{service.url}", "check\tThe service accepts the key."} <= {*output.splitlines()}

    monkeypatch.setenv("RCG_API_KEY", f"{ADMIN}-of-another")
    status, output, _ = rcg("doctor")
    assert 1 == status
    assert "check\tunauthenticated: " in output
