"""The command `rcg` in a pseudo-terminal."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from harness.killed_batch import RCG
from harness.service_process import until

CTRL_C = b"\x03"

_IN_CONTROL = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
"""Makes it the controlling terminal of the program, which then gets its Ctrl-C."""

_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")

_COLOUR = re.compile(rb"\x1b\[(?:[0-9]+;)*(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])[;m]")


class Terminal:
    """A command in a pseudo-terminal of so many columns."""

    def __init__(
        self, arguments: list[str], environ: Mapping[str, str], directory: Path, *, columns: int = 80
    ) -> None:
        self._received = b""
        self._read_to = 0
        self._end, terminal = pty.openpty()
        fcntl.ioctl(self._end, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
        os.set_blocking(self._end, False)
        self._process = subprocess.Popen(
            [sys.executable, "-c", _IN_CONTROL + RCG, *arguments],
            stdin=terminal, stdout=terminal, stderr=terminal, env={**environ, "TERM": "xterm-256color"},
            cwd=directory, start_new_session=True,
        )  # fmt: skip
        os.close(terminal)

    @property
    def text(self) -> str:
        """All that it has shown, without escapes."""
        with suppress(OSError):  # there is no output, or the program has ended
            while received := os.read(self._end, 65536):
                self._received += received
        return _ESCAPE.sub("", self._received.decode("utf-8", "ignore"))

    @property
    def is_coloured(self) -> bool:
        return _COLOUR.search(self._received) is not None

    def shows(self, text: str) -> None:
        """Wait until it shows the text after that of the last call."""
        until(lambda: text in self.text[self._read_to :])
        self._read_to = self.text.index(text, self._read_to) + len(text)

    def press(self, keys: bytes) -> None:
        os.write(self._end, keys)

    def kill(self) -> None:
        """End it, however far it is."""
        self._process.kill()
        self._process.wait()
        with suppress(OSError):  # it is closed
            os.close(self._end)

    def ended(self) -> int:
        """Its exit status, once it has ended."""
        until(lambda: self.text is not None and self._process.poll() is not None)
        return self._process.returncode
