"""Ctrl-C in `rcg batch`, once, twice and three times: its messages, and how long it waits."""

import pytest
from replicate_concurrent import ConnectionLost
from replicate_concurrent.batches.manifest import Line
from replicate_concurrent.batches.planning import Forecast, Standing
from replicate_concurrent.batches.rows import Row
from replicate_concurrent.batches.runner import Ended
from replicate_concurrent.batches.summary import Outcome
from replicate_concurrent.cli.batch_run import View
from replicate_concurrent.cli.session import OutputClosed, Session

TOTAL, ROW = 4, Row(1, "item 1", {"model_name": "m"}, "d")
CTRL_C = KeyboardInterrupt()
CANCELLED = Ended(Outcome(ROW, Line("k", "d", 1, "a", 0.0, status="canceled")))


class Run:
    """A batch of three rows at the service and one that is not sent. Each `next` takes its timeout of virtual time, and
    has what `comes` has next: None for no news, an error to raise, or the end of a row. The last one stays."""

    batches = ("batch_1",)
    standing = Standing((), (), (), (), 0)
    forecast = Forecast()

    def __init__(self, *comes, refusal=None):
        self.now = 0.0
        self.calls = []
        self.in_flight, self.unsent = 3, 1
        self._comes = list(comes)
        self._ended = []
        self._refusal = refusal

    @property
    def is_over(self):
        return not self.in_flight

    def next(self, *, timeout=0.5):
        self.now += timeout
        found = self._comes.pop(0) if len(self._comes) > 1 else self._comes[0]
        if isinstance(found, BaseException):
            raise found
        if found is not None:
            self.in_flight -= 1
            self._ended.append(found.outcome)
        return found

    def outcomes(self):
        return self._ended

    def start(self):
        self.calls.append("start")

    def stop(self):
        self.calls.append("stop")

    def cancel(self):
        self.calls.append("cancel")
        if self._refusal is not None:
            raise self._refusal


@pytest.fixture
def follow(monkeypatch, capsys, tmp_path):
    """Follows a run on a terminal. Returns the status, and the lines after `Interrupted: …`."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(batch):
        view = View(Session(), None, batch, TOTAL, tmp_path, clock=lambda: batch.now)
        monkeypatch.setattr("sys.stderr.isatty", lambda: True)
        status = view.follow()
        shown = capsys.readouterr().err
        return status, [each.strip() for each in shown.partition("Interrupted: ")[2].splitlines()]

    return run


def test_after_ctrl_c_no_more_rows_are_sent_and_a_sentence_counts_them(follow):
    batch = Run(CTRL_C, None)
    status, shown = follow(batch)

    assert (130, ["start", "stop"]) == (status, batch.calls)
    assert [
        "0 of 4 rows done.",
        "1 not sent. The same command sends them.",
        "3 go on at the service (batch_1). The same command fetches them.",
    ] == shown[:3]


def test_after_a_second_one_it_waits_until_the_service_has_cancelled_all_rows(follow):
    batch = Run(CTRL_C, CTRL_C, *[None] * 1000, CANCELLED)
    status, shown = follow(batch)

    assert (130, "cancel", 0) == (status, batch.calls[-1], batch.in_flight)
    assert batch.now > 100
    assert "3 cancelled, 0 done." == shown[-1]


@pytest.mark.parametrize(
    ("batch", "sentence"),
    [
        (Run(CTRL_C, CTRL_C, CANCELLED, CTRL_C), ""),
        (Run(CTRL_C, CTRL_C, CANCELLED, ConnectionLost("lost")), "rcg: lost"),
    ],
    ids=["Ctrl-C", "an error"],
)
def test_what_remains_is_named_if_the_wait_ends_before(follow, batch, sentence):
    status, shown = follow(batch)

    assert 130 == status
    assert [sentence, "1 cancelled, 0 done."] == shown[-3:-1]
    assert shown[-1].startswith("2 may still run at the service (batch_1).")


class Closed:
    """Standard output after the end of its reader."""

    def isatty(self):
        return False

    def write(self, _):
        raise BrokenPipeError


def test_a_reader_that_ends_early_leaves_a_sentence_about_the_rows(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("sys.stdout", Closed())
    view = View(Session(), None, Run(CANCELLED), TOTAL, tmp_path)

    with pytest.raises(OutputClosed):
        view.follow()
    assert "The same command goes on with the others." in capsys.readouterr().err


def test_what_remains_is_named_if_not_all_can_be_cancelled(follow):
    status, shown = follow(Run(CTRL_C, CTRL_C, None, refusal=ConnectionLost("lost")))

    assert 130 == status
    assert ["rcg: lost", "0 cancelled, 0 done."] == shown[-3:-1]
    assert shown[-1].startswith("3 may still run at the service (batch_1).")
