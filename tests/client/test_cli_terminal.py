"""`rcg batch` on a terminal: its question, its progress, and Ctrl-C once and twice."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from contextlib import suppress

import pytest
import requests

from harness.killed_batch import CLIENT, RCG
from harness.service_process import until
from tests.client.conftest import ADMIN

pytestmark = pytest.mark.slow

COLUMNS = 80
CTRL_C = b"\x03"

IN_CONTROL = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
"""Makes the terminal the one whose Ctrl-C the program gets."""


class Terminal:
    """A program in a pseudo-terminal. `output` is what it has shown since the last `shows`, without escapes."""

    def __init__(self, arguments, environ, directory):
        self.output = ""
        self._end, terminal = pty.openpty()
        fcntl.ioctl(self._end, termios.TIOCSWINSZ, struct.pack("HHHH", 30, COLUMNS, 0, 0))
        os.set_blocking(self._end, False)
        self._process = subprocess.Popen(
            [sys.executable, "-c", IN_CONTROL + RCG, *arguments],
            stdin=terminal, stdout=terminal, stderr=terminal, env=environ, cwd=directory, start_new_session=True,
        )  # fmt: skip
        os.close(terminal)

    def shows(self, text):
        """Wait until it has shown the text. Returns what was before it."""
        until(lambda: text in self._read())
        before, _, self.output = self.output.partition(text)
        return before

    def press(self, keys):
        os.write(self._end, keys)

    def kill(self):
        """End it, however far it is."""
        self._process.kill()
        self._process.wait()

    def ended(self):
        """Its exit status, once it has ended."""
        until(lambda: self._read() is not None and self._process.poll() is not None)
        os.close(self._end)
        return self._process.returncode

    def _read(self):
        with suppress(OSError):  # nothing there, or the program has ended
            while received := os.read(self._end, 65536):
                self.output += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", received.decode("utf-8", "ignore"))
        return self.output


@pytest.fixture
def rcg(service, tmp_path):
    """Starts `rcg batch` on a table of four prompts, of which the first ends at once."""
    (tmp_path / "prompts.txt").write_text(
        "A fox\n" + "".join(f"A hare {number} [[slow=60]]\n" for number in range(3))
    )

    terminals = []

    def start(*arguments):
        environ = {
            "PATH": os.environ["PATH"], "PYTHONPATH": str(CLIENT), "TERM": "xterm-256color", "RCG_URL": service.url,
            "RCG_API_KEY": ADMIN, "RCG_CONFIG": os.devnull, "SSL_CERT_FILE": os.environ["SSL_CERT_FILE"],
        }  # fmt: skip
        command = ["batch", "prompts.txt", "-m", "flux-dev", "-o", "out", *arguments]
        terminals.append(Terminal(command, environ, tmp_path))
        return terminals[-1]

    yield start
    for terminal in terminals:
        terminal.kill()


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
    terminal.shows("Nothing was sent.")

    assert 1 == terminal.ended()
    assert before == simulator.counts().creations_accepted


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
