"""The command `replicate-init`: `rcg init`."""

import sys
from importlib import import_module


def main() -> None:
    """Ask for the address and the token, check them, and write the configuration file."""
    sys.argv[1:] = ["init", *sys.argv[1:]]
    try:
        import_module("replicate_concurrent.cli").main()
    except ImportError as missing:
        sys.exit(f"replicate-init needs the command line: pip install './client[cli]' ({missing})")
