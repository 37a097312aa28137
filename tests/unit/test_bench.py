"""The benchmarks' own rules: which commit is compared, whose turn it is, when a target is met, and how charts are read.
`make bench` itself runs the services."""

import asyncio
import io
import os
import shutil
import subprocess
import sys

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from bench import against, overhead
from bench.commits import NoCommit, exported, find, has_changes, version_of
from bench.doors import make_keys
from bench.figures import AGAIN, NEW, OLD, Figure, compared, load_figure
from bench.load import Load, Plan, measured
from bench.overhead import Comparison
from bench.plots import PLOTS, charts
from bench.report import Claim, claimed, markdown, updated
from bench.rounds import Round, Turns, failures
from harness.service_process import ROOT
from ledger.queries import SqlQueries
from ledger.sqlite import SqliteBackend
from tests.support.wiring import on_a_loop

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")

RESULTS = (ROOT / "bench" / "results.md").read_text()


AUTHOR = ("-c", "user.name=bench", "-c", "user.email=bench@localhost", "-c", "commit.gpgsign=false")


@pytest.fixture
def repository(tmp_path):
    """Two commits of a program that prints its version, and the results of a benchmark."""
    git(tmp_path, "init", "-q")
    (tmp_path / "bench").mkdir()
    for version in ("1", "2"):
        (tmp_path / "app.py").write_text(f"print({version})\n")
        (tmp_path / "bench" / "results.md").write_text(version)
        git(tmp_path, "add", ".")
        git(tmp_path, *AUTHOR, "commit", "-qm", version)
    return tmp_path


def git(root, *arguments):
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@needs_git
def test_a_commit_is_compared_with_the_one_before(repository):
    assert git(repository, "rev-parse", "--short", "HEAD^") == find(root=repository).name


@needs_git
def test_a_work_tree_with_changes_is_compared_with_its_commit(repository):
    (repository / "app.py").write_text("print(3)\n")

    assert git(repository, "rev-parse", "--short", "HEAD") == find(root=repository).name


@needs_git
def test_new_results_of_a_benchmark_are_no_change(repository):
    (repository / "bench" / "results.md").write_text("new")

    assert not has_changes(repository)


@needs_git
def test_a_commit_can_be_named(repository):
    git(repository, "tag", "v1", "HEAD^")

    assert git(repository, "rev-parse", "--short", "v1") == find("v1", root=repository).name


@needs_git
def test_an_export_has_the_files_of_its_commit_and_says_its_version(repository):
    with exported(find("HEAD^", root=repository)) as tree:
        assert ("1", "1") == (version_of(tree), (tree / "bench" / "results.md").read_text())


def test_a_program_that_fails_has_no_version(tmp_path):
    assert not version_of(tmp_path)


@needs_git
@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("missing", "no commit missing to compare with"),
        ("HEAD~2", "no commit HEAD~2 to compare with"),
        ("HEAD:app.py", "no commit HEAD:app.py to compare with"),
    ],
)
def test_a_missing_commit_is_reported_in_one_line(repository, reference, reason):
    with pytest.raises(NoCommit, match=f"^{reason}: git says: .+$"):
        find(reference, root=repository)


@needs_git
def test_a_folder_that_git_does_not_know_is_reported_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))

    with pytest.raises(NoCommit, match=r"^no work tree of git to compare: .+not a git repository.*$"):
        find(root=tmp_path)


def test_a_machine_without_git_is_reported_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(os.environ, "PATH", str(tmp_path))

    with pytest.raises(NoCommit, match=r"^git is not installed; the comparison .+$"):
        find(root=tmp_path)


def test_the_benchmark_of_keys_makes_a_ledger_that_has_them_all(tmp_path):
    path = tmp_path / "ledger.db"

    asyncio.run(make_keys(path, 12))

    found = SqlQueries(SqliteBackend(f"sqlite:///{path}").engine).changed_api_keys(0)
    assert [*range(1, 13)] == [key.revision for key in found]
    assert 12 == len({key.digest for key in found})


def test_the_program_ends_with_two_if_the_commit_is_missing(capsys):
    assert 2 == against.main(["no-such-commit"])
    assert 1 == capsys.readouterr().err.count("\n")


def test_a_part_that_is_measured_again_replaces_its_section_of_the_report(capsys):
    first, second, third = (
        claimed(title, [Claim("kills", figure)], note=f"A note\n of {title}.")
        for title, figure in (("One", "1"), ("Two", "2"), ("One", "3"))
    )
    head = "# Results\n\nA machine.\n"

    report = updated(updated(updated(head, first), second), third)

    assert report == "\n".join([head, markdown(third), markdown(second)])


def test_contenders_take_turns_in_alternating_order():
    order = []

    found = Turns(rounds=3).measured(
        {name: lambda name=name: order.append(name) or len(order) for name in "abc"}
    )

    assert "abccbaabc" == "".join(order)
    assert {"a": [1, 6, 7], "b": [2, 5, 8], "c": [3, 4, 9]} == found


def figure(new, old, again, **target):
    return Figure(what="it", unit="ms", values={NEW: new, OLD: old, AGAIN: again}, **target)


def test_a_ratio_is_the_median_of_the_ratios_of_the_rounds():
    row = figure([1, 6, 30], [2, 10, 100], [2, 11, 90]).row()

    assert ("it", "6.00 ms", "10.00 ms", "0.50 (0.30 to 0.60)", "1.00 (0.90 to 1.10)") == row[:5]


@pytest.mark.parametrize(
    ("new", "again", "target", "met"),
    [
        (1.05, 1.00, "ratio ≤ 1.05", True),
        (1.06, 1.00, "ratio ≤ 1.05", False),
        (1.06, 1.20, "ratio ≤ 1.20", True),
        (1.06, 0.80, "ratio ≤ 1.05", False),
    ],
)
def test_a_ratio_without_a_target_must_not_be_worse_than_the_noise_explains(new, again, target, met):
    it = figure([new], [1], [again])

    assert (target, met) == (it.target, it.is_met)


@pytest.mark.parametrize(
    ("new", "again", "target", "met"),
    [
        (0.95, 1.0, "ratio ≥ 0.95", True),
        (0.94, 1.0, "ratio ≥ 0.95", False),
        (0.9, 0.85, "ratio ≥ 0.85", True),
    ],
)
def test_less_is_worse_where_more_is_better(new, again, target, met):
    it = figure([new], [1], [again], is_more_better=True)

    assert (target, met) == (it.target, it.is_met)


def test_the_noise_is_that_of_the_worst_round():
    assert "ratio ≤ 1.30" == figure([1, 1, 1], [1, 1, 1], [0.9, 1.3, 1.0]).target


def test_a_target_of_its_own_replaces_the_noise():
    assert ["it: ratio 0.61, not ≤ 0.60"] == figure([0.61], [1], [2], ratio=0.6).missed()
    assert [] == figure([1.5], [1], [1], ratio=1.5, is_more_better=True).missed()


def test_an_absolute_target_is_that_of_the_new_variant():
    assert ["it: 3.00 ms, not ≤ 2.8 ms"] == figure([2.7, 3.0, 3.1], [9, 9, 9], [9, 9, 9], most=2.8).missed()
    assert [] == figure([2.8], [1], [1], most=2.8).missed()


def test_a_figure_with_failed_requests_is_not_met():
    it = figure([1], [1], [1], failed="2 requests failed, the first with: 500")

    assert ("no", ["it: 2 requests failed, the first with: 500"]) == (it.row()[-1], it.missed())


def loaded(cpu, *errors, p50=5.0):
    return Round(Load(requests=10, errors=list(errors), requests_per_second=5, p50=p50, p99=9), cpu=cpu)


def test_requests_that_fail_are_counted_over_all_rounds():
    assert "2 requests failed, the first with: 500" == failures(
        [loaded(1, "500"), loaded(1), loaded(1, "429")]
    )
    assert not failures([loaded(1)])


@pytest.mark.parametrize(
    ("status", "has_file", "error"),
    [(503, True, "503 {}"), (201, False, "404 for an output"), (201, True, None)],
)
@on_a_loop
async def test_a_response_or_a_download_that_fails_is_counted(status, has_file, error, monkeypatch, capsys):
    async def create(request):
        output = {"output": [str(request.url.with_path("/file"))]} if status < 300 else {}
        return web.json_response(output, status=status)

    async def download(_):
        return web.Response(body=b"a picture")

    app = web.Application()
    app.router.add_post("/", create)
    if has_file:
        app.router.add_get("/file", download)
    monkeypatch.setattr(sys, "stdin", io.StringIO("go\n"))
    async with TestServer(app) as server:
        plan = Plan(
            url=str(server.make_url("/")), body=b"{}", headers={}, callers=1, seconds=0.01, downloads=True
        )
        load = await measured(plan)

    assert "ready\n" == capsys.readouterr().out
    assert ({error} if error else set()) == set(load.errors)


def comparison(*, keeps_files=False, callers=10, cpu=(2.0, 2.1, 3.1), direct=()):
    return Comparison(
        callers=callers,
        keeps_files=keeps_files,
        service=[loaded(each) for each in cpu],
        forwarder=[loaded(1.0) for _ in cpu],
        direct=[loaded(0.0, p50=each) for each in direct],
    )


def test_the_worst_round_counts_against_the_forwarder():
    it = comparison()

    assert ("2.10", "3.10") == it.row()[-3:-1]
    assert [
        "At 10 callers the service uses 3.10 times the forwarder's CPU in the worst round, not ≤ 3.0."
    ] == [*it.missed()]


def test_a_service_that_keeps_files_has_no_target_beside_a_forwarder_that_keeps_none():
    assert [] == list(comparison(keeps_files=True, callers=1, direct=[0.5]).missed())


def test_charts_are_drawn_of_the_results_that_a_benchmark_writes():
    path = overhead.table([comparison(cpu=[2.5, 2.75]), comparison(keeps_files=True, cpu=[4.5, 4.5])])
    rounds = {NEW: [loaded(0.5), loaded(0.7)], OLD: [loaded(1), loaded(1)], AGAIN: [loaded(0.9), loaded(1.0)]}
    cpu = load_figure("CPU a request with files, 10 at once", "ms", rounds, lambda it: it.cpu)
    title = "This commit against abc1234 (0.8.0)"
    commits = compared(title, [cpu, figure([1], [1], [1])], names=("this", "before"))
    before = RESULTS.partition("## This commit against")[0]
    rest = RESULTS.partition("## The path alone")[2].partition("\n## ")[2]

    drawn = charts(f"{before}{markdown(commits)}\n{markdown(path)}\n## {rest}")

    assert "10 at once, files kept" in drawn[PLOTS / "path.svg"]
    assert "2.62, at worst 2.75" in drawn[PLOTS / "path.svg"]
    assert "as a multiple of that in abc1234 (0.8.0)" in drawn[PLOTS / "against.svg"]
    assert "0.60 (0.50 to 0.70)" in drawn[PLOTS / "against.svg"]
    assert "0.95 (0.90 to 1.00)" in drawn[PLOTS / "against.svg"]


def test_results_without_the_section_have_no_chart_of_it():
    before, _, after = RESULTS.partition("## This commit against")
    rest = after.partition("\n## ")[2]

    assert PLOTS / "against.svg" not in charts(f"{before}\n## {rest}" if rest else RESULTS)
