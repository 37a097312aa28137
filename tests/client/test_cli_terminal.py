"""`rcg` on a terminal: the question and the progress of a batch, Ctrl-C once and twice, `init`, and a live status."""

import os
import re
import stat
from functools import partial

import pytest
import requests

from harness.killed_batch import CLIENT
from tests.client.conftest import ADMIN
from tests.support.terminals import CTRL_C, Terminal

pytestmark = pytest.mark.slow


@pytest.fixture
def start(service, tmp_path):
    """Starts a command. Variables are by name; None removes one."""
    terminals = []

    def start(*arguments, columns=80, **more):
        environ = {
            "PATH": os.environ["PATH"], "PYTHONPATH": str(CLIENT), "RCG_URL": service.url, "RCG_API_KEY": ADMIN,
            "RCG_CONFIG": os.devnull, "SSL_CERT_FILE": os.environ["SSL_CERT_FILE"], **more,
        }  # fmt: skip
        kept = {name: value for name, value in environ.items() if value is not None}
        terminals.append(Terminal([*arguments], kept, tmp_path, columns=columns))
        return terminals[-1]

    yield start
    for terminal in terminals:
        terminal.kill()


@pytest.fixture
def rcg(start, tmp_path):
    """Starts `rcg batch` on a table of four prompts, of which the first ends at once."""
    (tmp_path / "prompts.txt").write_text(
        "A fox\n" + "".join(f"A hare {number} [[slow=60]]\n" for number in range(3))
    )
    return partial(start, "batch", "prompts.txt", "-m", "flux-dev", "-o", "out")


def states_of_hares(service):
    query = {"prompt": "A hare", "limit": 3}
    listed = requests.get(
        f"{service.url}/generations", params=query, headers={"X-API-Key": ADMIN}, timeout=30
    ).json()
    return [each["status"] for each in listed["generations"]]


def test_it_asks_before_it_may_cost_more(rcg, simulator, tmp_path):
    before = simulator.counts().creations_accepted
    terminal = rcg("--ask-above", "0.05")
    terminal.shows("This may cost 0.1 USD. Go on? [y/N]")
    terminal.press(b"n\n")
    terminal.shows("No row was sent.")

    assert 1 == terminal.ended()
    assert before == simulator.counts().creations_accepted


def test_it_asks_above_five_dollars_by_itself(rcg, simulator, tmp_path):
    (tmp_path / "prompts.txt").write_text("".join(f"A fox {number}\n" for number in range(51)))
    before = simulator.counts().creations_accepted
    terminal = rcg("-p", "num_outputs=4")
    terminal.shows("This may cost 5.1 USD. Go on? [y/N]")
    terminal.press(b"\n")

    assert 1 == terminal.ended()
    assert before == simulator.counts().creations_accepted


@pytest.mark.parametrize(
    ("columns", "bar", "more"),
    [(80, 12, {}), (140, 60, {"NO_COLOR": "1"})],
    ids=["80 columns", "140 columns"],
)
def test_the_progress_is_a_line_that_fits_and_obeys_no_color(rcg, tmp_path, columns, bar, more):
    (tmp_path / "prompts.txt").write_text("A fox\nA hare [[nsfw]]\n")

    terminal = rcg(columns=columns, **more)

    assert 1 == terminal.ended()
    drawn = [line for line in re.split(r"[\r\n]+", terminal.text) if "in flight" in line]
    assert (bar, True) == (drawn[-1].count("━"), "2/2 1 failed 0 in flight" in drawn[-1])
    for facts in (r"\d+/2 \d failed \d in flight", r"[-\d.]+/(s|min)", "ETA ", r"\d\.\d\d USD"):
        assert all(re.search(facts, line) for line in drawn)
    assert columns > max(map(len, drawn))
    assert terminal.is_coloured is not bool(more)


def test_status_with_watch_is_drawn_anew_until_ctrl_c(start):
    terminal = start("status", "--watch")
    for _ in range(3):
        terminal.shows("slots")
        terminal.shows("of 10")
        terminal.shows("of 600 in 60 s")
    terminal.press(CTRL_C)

    assert 130 == terminal.ended()


def test_init_asks_for_the_address_and_the_key_which_it_does_not_show(start, service, tmp_path):
    path = tmp_path / "config.toml"
    own = {"RCG_URL": None, "RCG_API_KEY": None, "RCG_CONFIG": str(path)}
    terminal = start("init", **own)
    terminal.shows("Address: ")
    terminal.press(f"{service.url}\n".encode())
    terminal.shows("Key: ")
    terminal.press(f"{ADMIN}\n".encode())
    terminal.shows("The service accepts the key.")
    assert 0 == terminal.ended()
    assert (service.url in terminal.text, ADMIN in terminal.text) == (True, False)
    written = path.read_text()
    assert (0o600, True, True) == (
        stat.S_IMODE(path.stat().st_mode),
        service.url in written,
        ADMIN in written,
    )

    terminal = start("init", **own)
    terminal.shows("Replace it? [y/N]: ")
    terminal.press(b"n\n")
    assert 1 == terminal.ended()
    assert written == path.read_text()


@pytest.mark.parametrize("question", ["Address: ", "Key: "])
def test_ctrl_c_ends_init_as_any_other_command(start, service, tmp_path, question):
    address = {"RCG_URL": service.url if question == "Key: " else None}
    terminal = start("init", RCG_CONFIG=str(tmp_path / "config.toml"), **address)
    terminal.shows(question)
    terminal.press(CTRL_C)

    assert 130 == terminal.ended()
    assert not (tmp_path / "config.toml").exists()


def test_ctrl_c_tells_what_goes_on_and_pressed_twice_cancels_it(rcg, service):
    terminal = rcg()
    terminal.shows("4 new: 0.1 USD")
    terminal.shows("1/4")
    terminal.press(CTRL_C)
    terminal.shows("Interrupted: 1 of 4 rows done.")
    terminal.shows("3 go on at the service (batch_")
    assert 130 == terminal.ended()
    assert {"submitting", "running"} >= set(states_of_hares(service))

    terminal = rcg()
    terminal.shows("1 done before, 3 go on.")
    terminal.shows("1/4")
    terminal.press(CTRL_C)
    terminal.shows("Ctrl-C again within 3 seconds cancels them there.")
    terminal.press(CTRL_C)
    terminal.shows("3 cancelled, 1 done.")
    assert 130 == terminal.ended()
    assert {"canceled"} == set(states_of_hares(service))


def test_a_training_prompts_shows_its_logs_and_ctrl_c_pressed_twice_cancels_it(start, photos, service):
    command = ("train", "photos", "--name", "new-dog", "--trigger", "TOK [[slow=60]]")
    terminal = start(*command)
    terminal.shows("Make it, private, and begin? [y/N]")
    terminal.press(b"\n")
    terminal.shows("No training was begun.")
    assert 1 == terminal.ended()

    terminal = start(*command)
    terminal.shows("and begin? [y/N]")
    terminal.press(b"y\n")
    terminal.shows("running")
    terminal.shows(" %")
    terminal.shows("flux_train_replicate:")
    assert max(map(len, re.split(r"[\r\n]+", terminal.text))) < 80
    terminal.press(CTRL_C)
    terminal.shows("goes on at the service; `rcg watch")
    terminal.shows("Ctrl-C again within 3 seconds cancels it there.")
    terminal.press(CTRL_C)
    terminal.shows("Cancelling")
    assert 130 == terminal.ended()
    listed = requests.get(f"{service.url}/trainings?limit=1", headers={"X-API-Key": ADMIN}, timeout=30).json()
    assert "canceled" == listed["trainings"][0]["status"]
