"""The command `rcg`, on a real service before the simulator."""

import io
import json
import os
import re
import stat

import pytest
from werkzeug.wrappers import Request, Response

from tests.client.conftest import ADMIN
from tests.support.served_in_process import online

pytestmark = pytest.mark.slow


def lines_of(output):
    return [json.loads(line) for line in output.splitlines()]


def names_in(directory):
    return sorted(path.name for path in directory.iterdir())


def test_generate_saves_the_outputs_and_prints_their_paths(rcg, tmp_path):
    options = (
        "-m",
        "flux-dev",
        "-p",
        "num_outputs=2",
        "-p",
        "go_fast=no",
        "-o",
        "out",
        "--name",
        "{slug}.{ext}",
    )
    status, output, _ = rcg("generate", "A red fox", *options)

    assert (0, ["out/a-red-fox.jpg", "out/a-red-fox-2.jpg"]) == (status, output.splitlines())
    assert ["a-red-fox-2.jpg", "a-red-fox.jpg"] == names_in(tmp_path / "out")

    status, output, errors = rcg("generate", "A red fox", *options)
    assert (1, "") == (status, output)
    assert "exists" in errors


def test_the_json_of_a_command_is_the_services_own_answer(rcg):
    _, output, _ = rcg("generate", "A fox", "-m", "flux-schnell", "--json")
    made = json.loads(output)
    _, shown, _ = rcg("get", made["id"], "--json")

    assert {"success": True, "prompt": "A fox"}.items() <= made.items()
    assert made == json.loads(shown)


def test_json_has_the_services_own_error_and_standard_error_a_sentence(rcg):
    status, output, errors = rcg("generate", "A fox", "-m", "flux-dev", "-p", "num_outputs=9", "--json")

    assert (1, "invalid_request") == (status, json.loads(output)["code"])
    assert "rcg: invalid_request: num_outputs: must be at most 4\n" == errors


@pytest.mark.parametrize(
    ("command", "status", "sentence"),
    [
        (["get", "gen_0"], 1, "not_found"),
        (["models", "no/such"], 1, "no/such is no model"),
        (["generate", "A fox", "-m", "flux-dev", "-p", "seed"], 2, "must be NAME=VALUE"),
        (["generate", "A fox", "-m", "flux-dev", "--name", "../{id}"], 2, "below the directory"),
        (["generate", "A fox", "-m", "flux-dev", "-p", "image=none.png"], 2, "neither a URL nor a file"),
        (["batch", "none.csv", "-m", "flux-dev"], 2, "none.csv: No such file"),
        (["configure"], 2, "name a limit"),
        (["configure", "--concurrent-limit", "many"], 2, "a whole number or none"),
        (["completion", "tcsh"], 2, "bash, zsh, fish"),
        (["nothing"], 2, "No such command"),
        (["--url", "localhost:5000", "status"], 2, "must be like http://localhost:5000"),
    ],
)
def test_what_cannot_be_done_is_a_sentence_and_a_status(rcg, command, status, sentence):
    found, output, errors = rcg(*command)

    assert (status, "") == (found, output)
    assert sentence in errors


def test_tables_are_lines_with_tabs_without_a_terminal(rcg):
    rcg("generate", "A listed\tfox", "-m", "flux-schnell")

    _, output, _ = rcg("list", "--prompt", "A listed", "--limit", "1")
    (row,) = output.splitlines()
    assert ["succeeded", "flux-schnell", "A listed fox"] == [row.split("\t")[at] for at in (1, 2, 5)]

    _, output, _ = rcg("models", "flux-dev")
    assert "num_outputs\tinteger 1 to 4\t1\t" in output.splitlines()

    _, output, _ = rcg("usage")
    assert output.splitlines()[-1].startswith("total\t")


def test_usage_has_columns_of_trainings_if_there_are_any(run_command, monkeypatch):
    used = {"generations": 3, "succeeded": 3, "failures": 0, "canceled": 0, "usd": 2.5}

    @Request.application
    def answer(request):
        trained = {"trainings": 2, "training_usd": 2.25} if "caller" in request.args["group_by"] else {}
        row = {**used, **trained}
        body = {"usage": [{request.args["group_by"]: "a", **row}], "total": row}
        return Response(json.dumps(body), content_type="application/json")

    with online(answer) as url:
        monkeypatch.setenv("RCG_URL", url)
        monkeypatch.setenv("RCG_API_KEY", "the-admin-key")
        lines = [run_command("usage", "--group-by", each)[1].splitlines()[-1] for each in ("caller", "model")]

    assert ["2", "2.25"] == lines[0].split("\t")[5:7]
    assert [7 + 1, 5 + 1] == [len(each.split("\t")) for each in lines]


def test_a_list_has_one_line_for_each_row_on_a_terminal_of_80_columns(rcg, monkeypatch):
    rcg("generate", "A narrow fox", "-m", "flux-schnell")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)

    _, output, _ = rcg("list", "--prompt", "A narrow", "--limit", "1")

    _, header, _, row = output.rstrip().splitlines()
    assert ["id", "status", "created", "prompt"] == header.split()
    assert ("succeeded", "A narrow fox") == (row.split()[1], row.strip()[-12:])


def test_an_administrator_makes_changes_and_deletes_keys(rcg):
    _, output, _ = rcg("keys", "create", "shop", "--max-concurrent", "2", "--tag", "team=web", "--json")
    key = json.loads(output)
    assert key["key"].startswith("rcg_")

    _, output, _ = rcg("keys", "update", key["id"], "--max-concurrent", "none", "--model", "image")
    assert "max_concurrent" not in output
    assert "models\timage" in output.splitlines()

    assert 0 == rcg("keys", "rotate", key["id"])[0]
    assert 0 == rcg("keys", "delete", key["id"])[0]
    assert key["id"] not in rcg("keys", "list")[1]


def test_a_table_becomes_named_files_and_the_same_command_again_makes_nothing(rcg, tmp_path, simulator):
    (tmp_path / "animals.csv").write_text("sku,animal,seed\nA/1,fox,7\nA/2,hare,\n")
    command = ("batch", "animals.csv", "-m", "flux-dev", "--prompt", "A {animal}", "--name", "{sku}.{ext}")
    status, output, errors = rcg(*command, "-o", "out", "--contact-sheet")

    assert 0 == status, errors
    assert {1: ["out/A_1.jpg"], 2: ["out/A_2.jpg"]} == {
        each["index"]: each["files"] for each in lines_of(output)
    }
    assert ["A_1.jpg", "A_2.jpg", "contact-sheet.html", "manifest.jsonl"] == names_in(tmp_path / "out")
    before = simulator.counts().creations_accepted

    status, again, errors = rcg(*command, "-o", "out")
    assert 0 == status
    assert sorted(output.splitlines()) == sorted(again.splitlines())
    assert "2 done before.\n2 of 2 rows done, 0.05 USD: out\n" == errors
    assert before == simulator.counts().creations_accepted

    status, again, errors = rcg(*command[:-1], "{sku}-{index}.{ext}", "-o", "out")
    assert "2 done before.\nRows of earlier runs keep the names of --name '{sku}.{ext}'.\n" in errors
    assert sorted(output.splitlines()) == sorted(again.splitlines())


def test_a_file_that_was_deleted_is_fetched_again_and_a_changed_row_is_made(rcg, tmp_path, simulator):
    rows = tmp_path / "prompts.txt"
    rows.write_text("A fox\nA hare\n")
    command = ("batch", "prompts.txt", "-m", "flux-dev", "-o", "out")
    rcg(*command)
    (tmp_path / "out" / "0001-a-fox.jpg").unlink()
    rows.write_text("A fox\nA blue hare\n")
    before = simulator.counts().creations_accepted

    assert 0 == rcg(*command)[0]
    assert before + 1 == simulator.counts().creations_accepted
    assert ["0001-a-fox.jpg", "0002-a-blue-hare.jpg", "0002-a-hare.jpg", "manifest.jsonl"] == names_in(
        tmp_path / "out"
    )


def test_failed_rows_are_a_table_and_are_made_again_only_on_request(rcg, tmp_path, simulator):
    (tmp_path / "prompts.txt").write_text("A fox\nA hare [[nsfw]]\n")
    command = ("batch", "prompts.txt", "-m", "flux-dev", "-o", "out", "--json")
    status, output, _ = rcg(*command)

    assert 1 == status
    assert {True, False} == {each["success"] for each in lines_of(output)}
    assert "prompts.txt line 2,flux-dev" in (tmp_path / "out" / "failures.csv").read_text()
    before = simulator.counts().creations_accepted

    assert 1 == rcg(*command)[0]
    assert before == simulator.counts().creations_accepted
    assert 1 == rcg(*command, "--retry-failed")[0]
    assert before < simulator.counts().creations_accepted


def test_mistakes_of_rows_are_named_by_their_lines_before_anything_is_spent(rcg, tmp_path, simulator):
    (tmp_path / "rows.csv").write_text("prompt,seed\nA fox,1\nA hare,many\n")
    before = simulator.counts().creations_accepted
    status, _, errors = rcg("batch", "rows.csv", "-m", "flux-dev", "-o", "out")

    assert (2, "rcg: rows.csv line 3: seed must be an integer\n") == (status, errors)
    assert before == simulator.counts().creations_accepted


def test_a_dry_run_shows_the_cost_and_makes_no_directory(rcg, tmp_path):
    (tmp_path / "prompts.txt").write_text("A fox\nA hare\n")
    status, output, _ = rcg("batch", "prompts.txt", "-m", "flux-dev", "-o", "out", "--dry-run")

    assert (0, True) == (status, output.startswith("2 rows, 0.05 USD"))
    assert not (tmp_path / "out").exists()


def test_init_checks_the_key_and_keeps_it_in_a_file_of_this_user_alone(rcg, tmp_path, monkeypatch):
    path = tmp_path / "config" / "config.toml"
    url = os.environ["RCG_URL"]
    monkeypatch.setattr("sys.stdin", io.StringIO("wrong-key\n"))
    assert 1 == rcg("init")[0]
    assert not path.exists()

    monkeypatch.setattr("sys.stdin", io.StringIO(f"{ADMIN}\n"))
    assert 0 == rcg("init")[0]
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)

    monkeypatch.delenv("RCG_URL")
    monkeypatch.delenv("RCG_API_KEY")
    assert [url in path.read_text(), 0] == [True, rcg("usage")[0]]
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{ADMIN}\n"))
    assert 2 == rcg("init")[0]


def test_init_warns_of_a_token_that_replicate_did_not_confirm(rcg, simulator, monkeypatch):
    simulator.inject(on="account", token="r8_unchecked", times=100, status=500)
    monkeypatch.setattr("sys.stdin", io.StringIO("r8_unchecked\n"))

    status, _, errors = rcg("init")

    assert (0, True) == (status, "The token is not checked, since Replicate does not answer." in errors)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_a_completion(rcg, shell):
    assert f"_RCG_COMPLETE=complete_{shell}" in rcg("completion", shell)[1]


@pytest.mark.parametrize(
    "variables",
    [
        {"_RCG_COMPLETE": "complete_bash", "COMP_WORDS": "rcg gen", "COMP_CWORD": "1"},
        {"_RCG_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "rcg gen"},
        {"_RCG_COMPLETE": "complete_fish", "_TYPER_COMPLETE_ARGS": "rcg gen",
         "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    ],
    ids=lambda variables: variables["_RCG_COMPLETE"],
)  # fmt: skip
def test_the_completion_of_a_shell_completes_a_command(rcg, monkeypatch, variables):
    """The printed scripts set these variables."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert re.search(r"\bgenerate\b", rcg()[1])


def test_the_version_and_the_help_of_each_command_are_shown_with_an_example(rcg):
    from replicate_concurrent.cli.app import app

    assert rcg("--version")[1].startswith("rcg 0.")
    [keys] = app.registered_groups
    commands = [("", each) for each in app.registered_commands]
    commands += [("keys ", each) for each in keys.typer_instance.registered_commands]
    for group, each in commands:
        command = f"{group}{each.name or each.callback.__name__}"
        assert f"Example: rcg {command}" in rcg(*command.split(), "--help")[1]
