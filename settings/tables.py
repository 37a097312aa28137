"""Files of the operator that hold a table, with a key for each model."""

import json
import tomllib
from pathlib import Path
from typing import Any

from settings import SettingsError


def read_table(setting: str, path: Path) -> dict[str, Any]:
    """The content of the TOML or JSON file that a setting names. Raises SettingsError."""
    kind = "JSON" if path.suffix == ".json" else "TOML"
    try:
        content = path.read_text(encoding="utf-8")
        table = json.loads(content) if kind == "JSON" else tomllib.loads(content)
    except (OSError, ValueError) as error:
        raise SettingsError(f"{setting}: {path} cannot be read as {kind}: {error}.") from None
    if not isinstance(table, dict):
        raise SettingsError(f"{setting}: {path} must be a table of models.")
    return table
