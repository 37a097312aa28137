"""Which service, and whose token: arguments, the environment, then a `.env` file in the working directory."""

import os
from pathlib import Path
from typing import Any

_NAMES = {"url": "RCG_URL", "api_key": "RCG_API_KEY", "replicate_api_token": "REPLICATE_API_TOKEN"}
"""The arguments of `Client`, and the variables that it reads itself."""


def options(replicate_api_token: str | None = None) -> dict[str, Any]:
    """The arguments of a `Client` or `AsyncClient`. A variable of the environment comes before the file."""
    in_file = variables(Path(".env"))
    found = {argument: in_file.get(name) for argument, name in _NAMES.items() if not os.environ.get(name)}
    return found | ({"replicate_api_token": replicate_api_token} if replicate_api_token else {})


def variables(file: Path) -> dict[str, str]:
    """The lines `NAME=value` of a file, also with `export` and quotes; none if there is no such file."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    pairs = (line.strip().removeprefix("export ").partition("=") for line in lines if "=" in line)
    return {name.strip(): value.strip().strip("\"'") for name, _, value in pairs if not name.startswith("#")}
