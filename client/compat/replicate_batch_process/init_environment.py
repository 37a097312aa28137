"""The command `replicate-init`: `rcg init`."""

import sys

from replicate_concurrent.cli import main as rcg


def main() -> None:
    """Ask for the address and the key, check them, and keep them in a file that only the user can read."""
    rcg(["init", *sys.argv[1:]])
