"""`--json`: standard output has the service's own answers, letter by letter."""

import io
import json

import httpx
import pytest

from tests.client.conftest import ADMIN

pytestmark = pytest.mark.slow

PROMPT = 'A fox "élan" \u2603 \U0001f98a </script>'


@pytest.fixture
def answer_of(service):
    """The text of the service's answer to a GET."""

    def get(path):
        return httpx.get(f"{service.url}{path}", headers={"X-Admin-API-Key": ADMIN}).text.strip()

    return get


def test_generate_get_and_watch_print_the_answer_of_the_service(rcg, answer_of):
    made = rcg("generate", PROMPT, "-m", "flux-schnell", "--json")[1].strip()
    target = json.loads(made)["id"]

    expected = answer_of(f"/generations/{target}")

    assert expected == made
    assert expected == rcg("get", target, "--json")[1].strip()
    assert expected == rcg("watch", target, "--json")[1].strip()
    assert expected == rcg("cancel", target, "--json")[1].strip()


@pytest.mark.parametrize(
    ("command", "path"),
    [
        ("models", "/models"), ("models flux-dev", "/models/black-forest-labs/flux-dev"),
        ("usage", "/usage?group_by=model"), ("list", "/generations?limit=20"), ("keys list", "/keys?limit=200"),
    ],
)  # fmt: skip
def test_what_is_looked_up_is_printed_as_the_service_answers_it(rcg, answer_of, command, path):
    rcg("keys", "create", command)
    rcg("generate", PROMPT, "-m", "flux-schnell")

    assert answer_of(path) == rcg(*command.split(), "--json")[1].strip()


def test_figures_that_change_meanwhile_are_printed_whole(rcg, answer_of, service):
    limits, key = {"concurrent_limit": 10}, {"X-Admin-API-Key": ADMIN}
    configured = httpx.post(f"{service.url}/configure", json=limits, headers=key).json()
    shown, changed = (
        json.loads(rcg(*command.split(), "--json")[1])
        for command in ("status", "configure --concurrent-limit 10")
    )

    assert (json.loads(answer_of("/status")).keys(), configured.keys()) == (shown.keys(), changed.keys())


def test_a_batch_prints_the_answer_of_the_service(rcg, answer_of, tmp_path):
    (tmp_path / "prompts.txt").write_text("A fox\nA hare\n", encoding="utf-8")
    lines = rcg("batch", "prompts.txt", "-m", "flux-schnell", "-o", "out", "--json")[1].splitlines()
    target = json.loads(lines[0])["batch_id"]

    whole = answer_of(f"/batches/{target}")

    assert whole == rcg("get", target, "--json")[1].strip() == rcg("watch", target, "--json")[1].strip()
    assert [True, True] == [line in whole for line in lines]


def test_a_batch_that_is_resumed_prints_the_rows_that_had_ended_before(rcg, answer_of, tmp_path):
    (tmp_path / "prompts.txt").write_text("A fox\nA hare [[nsfw]]\n", encoding="utf-8")
    command = ("batch", "prompts.txt", "-m", "flux-dev", "-o", "out", "--json")
    targets = {json.loads(line)["id"] for line in rcg(*command)[1].splitlines()}

    lines = rcg(*command)[1].splitlines()

    assert {answer_of(f"/generations/{each}") for each in targets} == {*lines}


def test_a_row_that_the_service_does_not_know_any_more_is_its_error(rcg, tmp_path):
    (tmp_path / "prompts.txt").write_text("A fox\n", encoding="utf-8")
    command = ("batch", "prompts.txt", "-m", "flux-dev", "-o", "out", "--json")
    known = json.loads(rcg(*command)[1])["id"]
    manifest = tmp_path / "out" / "manifest.jsonl"
    manifest.write_text(manifest.read_text().replace(known, "gen_0"))
    (picture,) = (tmp_path / "out").glob("*.jpg")

    assert "not_found" == json.loads(rcg(*command)[1])["code"]  # done before, and only its answer is gone
    picture.unlink()
    assert "not_found" == json.loads(rcg(*command)[1])["code"]  # its file is to be fetched again


def test_a_forecast_is_the_answer_of_the_service(rcg, service, tmp_path):
    (tmp_path / "prompts.txt").write_text("A fox\n", encoding="utf-8")
    printed = rcg("batch", "prompts.txt", "-m", "flux-dev", "-o", "out", "--dry-run", "--json")[1]

    body = {"requests": [{"model_name": "flux-dev", "prompt": "A fox"}], "dry_run": True}
    expected = httpx.post(
        f"{service.url}/generate-batch", json=body, headers={"X-Admin-API-Key": ADMIN}
    ).json()

    assert [*expected] == [*json.loads(printed)]
    assert " " not in printed.replace("A fox", "")


def test_init_prints_the_answer_to_its_check(rcg, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{ADMIN}\n"))
    status, output, errors = rcg("init", "--json")
    assert (0, True, "flux-schnell") == (
        status, json.loads(output)["dry_run"], json.loads(output)["requested_model"],
    )  # fmt: skip
    assert "accepts the key" in errors

    monkeypatch.setattr("sys.stdin", io.StringIO("wrong-key\n"))
    status, output, _ = rcg("init", "--force", "--json")
    assert (1, "unauthenticated") == (status, json.loads(output)["code"])


def test_a_seed_that_the_model_has_drawn_is_in_the_manifest_and_on_the_contact_sheet(rcg, tmp_path):
    (tmp_path / "prompts.txt").write_text("A fox\n", encoding="utf-8")
    made = rcg("batch", "prompts.txt", "-m", "flux-dev", "-o", "out", "--contact-sheet", "--json")[1]
    seed = json.loads(made)["seed"]

    assert seed == json.loads((tmp_path / "out" / "manifest.jsonl").read_text().splitlines()[-1])["seed"]
    assert f"seed {seed} " in (tmp_path / "out" / "contact-sheet.html").read_text(encoding="utf-8")
    assert 0 == rcg("batch", "prompts.txt", "-m", "flux-dev", "-o", "out", "--contact-sheet")[0]
    assert f"seed {seed} " in (tmp_path / "out" / "contact-sheet.html").read_text(encoding="utf-8")
