"""Which service, and whose token: arguments, the environment, then a `.env` file in the working directory."""

import os
import re
from pathlib import Path
from typing import Any

_LINE = re.compile(
    r"""\s*(?:export\s+)?(?P<name>\w+)\s*=\s*(?:(?P<quote>["'])(?P<quoted>.*)(?P=quote)|(?P<plain>.*?))\s*(?:\s#.*)?$"""
)

_KEYS = {"api_key": "RCG_API_KEY", "replicate_api_token": "REPLICATE_API_TOKEN"}
_NAMES = {"url": "RCG_URL", **_KEYS}
"""The arguments of `Client`, and the variables that it reads itself."""


def options(replicate_api_token: str | None = None) -> dict[str, Any]:
    """The arguments of a `Client` or `AsyncClient`. Any key of the environment comes before those of the file."""
    in_file = variables(Path(".env"))
    if any(os.environ.get(name) for name in _KEYS.values()):
        in_file = {name: value for name, value in in_file.items() if name not in _KEYS.values()}
    found = {argument: in_file.get(name) for argument, name in _NAMES.items() if not os.environ.get(name)}
    return found | ({"replicate_api_token": replicate_api_token} if replicate_api_token else {})


def variables(file: Path) -> dict[str, str]:
    """The lines `NAME=value` of a file, also with `export`, quotes and comments; none if there is no such file."""
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    return {
        line["name"]: line["quoted"] or line["plain"] or "" for line in filter(None, map(_LINE.match, lines))
    }
