"""The exit statuses of `rcg`."""

from typing import Final

FAILED: Final = 1
"""The service refused, or some of the work failed."""

USAGE: Final = 2
"""The command or its input is wrong."""

INTERRUPTED: Final = 130
"""Ctrl-C."""

OUTPUT_CLOSED: Final = 141
"""The reader of standard output has ended, such as `head`. The shell gives a program that SIGPIPE ends this status."""
